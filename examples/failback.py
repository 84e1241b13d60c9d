#!/usr/bin/env python3
"""Brings a VM home to the old primary, which is back: by the difference, while it runs on over there (operator)."""

from replica import arguments, connect, run

REPLICATING = 3
FAILBACK_COMPLETE = 14


def come_home(options):
    host = connect(options, options.host)
    vm = host.vm(options.vm)
    host.call("InitiateFailback", ComputerSystem=vm)
    host.wait_for_state(vm, FAILBACK_COMPLETE)
    host.call("CommitFailover", ComputerSystem=vm)
    host.wait_for_state(vm, REPLICATING)


parser = arguments(__doc__)
parser.add_argument("host", help="HOST or HOST:PORT, the old primary")
parser.add_argument("vm", help="the VM's name")
run(come_home, parser)
