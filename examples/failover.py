#!/usr/bin/env python3
"""Lets the replica take over when the primary is lost; or reverts, commits or reverses that (operator).

Without an option it fails over and runs the VM: look whether the point is a good one. If not, revert, and fail over to
another. If it is, commit. When the other host is back, reverse makes it the replica; failback.py brings the VM home.
"""

from replica import RUNNING, arguments, connect, run


def fail_over(host, vm, point):
    chosen = {} if point is None else {"SnapshotSettingData": host.points(vm)[point].path}
    host.call("InitiateFailover", ComputerSystem=vm, **chosen)
    host.request_state(vm, RUNNING)


def act(options):
    host = connect(options, options.host)
    vm = host.vm(options.vm)
    if options.revert:
        host.call("RevertFailover", ComputerSystem=vm)
    elif options.commit:
        host.call("CommitFailover", ComputerSystem=vm)
    elif options.reverse:
        host.call("ReverseReplicationRelationship", ComputerSystem=vm)
    else:
        fail_over(host, vm, options.point)


parser = arguments(__doc__)
parser.add_argument("host", help="HOST or HOST:PORT, which holds the replica")
parser.add_argument("vm", help="the VM's name")
what = parser.add_mutually_exclusive_group()
what.add_argument("--point", type=int, metavar="N", help="0 is the oldest, -1 the latest recovery point")
what.add_argument("--revert", action="store_true", help="back to before the failover")
what.add_argument("--commit", action="store_true", help="keep it; the other recovery points go")
what.add_argument("--reverse", action="store_true", help="replicate to the old primary from now on")
run(act, parser)
