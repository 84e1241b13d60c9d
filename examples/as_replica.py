#!/usr/bin/env python3
"""Makes the old primary, which was failed over without, the replica: Set-VMReplication -AsReplica (operator).

What its VM wrote that the other host never got stays as a recovery point. The other host is reversed afterwards.
"""

from replica import arguments, connect, run

WAITING_TO_COMPLETE_FIRST_COPY = 2


def give_way(options):
    host = connect(options, options.host)
    vm = host.vm(options.vm)
    host.call_on(vm, "RequestReplicationStateChange", RequestedState=WAITING_TO_COMPLETE_FIRST_COPY)
    host.wait_for_state(vm, WAITING_TO_COMPLETE_FIRST_COPY)


parser = arguments(__doc__)
parser.add_argument("host", help="HOST or HOST:PORT, the old primary")
parser.add_argument("vm", help="the VM's name")
run(give_way, parser)
