#!/usr/bin/env python3
"""Runs a VM, shuts it down, or turns it off (operator)."""

from replica import OFF, RUNNING, SHUT_DOWN, arguments, connect, run

STATES = {"on": RUNNING, "shut-down": SHUT_DOWN, "off": OFF}


def power(options):
    host = connect(options, options.host)
    host.request_state(host.vm(options.vm), STATES[options.state])


parser = arguments(__doc__)
parser.add_argument("host", help="HOST or HOST:PORT")
parser.add_argument("vm", help="the VM's name")
parser.add_argument("state", choices=STATES)
run(power, parser)
