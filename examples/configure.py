#!/usr/bin/env python3
"""Changes how many recovery points the replica of a VM keeps (administrator)."""

from replica import arguments, connect, run


def configure(options):
    host = connect(options, options.host)
    vm = host.vm(options.vm)
    settings = host.client.edited(host.settings(vm), RecoveryHistory=options.history)
    host.call("ModifyReplicationSettings", ComputerSystem=vm, ReplicationSettingData=settings)
    host.say(f"keeps {host.settings(vm)['RecoveryHistory']} points beside the latest")


parser = arguments(__doc__)
parser.add_argument("host", help="HOST or HOST:PORT, which runs the VM")
parser.add_argument("vm", help="the VM's name")
parser.add_argument("--history", type=int, required=True, metavar="N", help="recovery points beside the latest")
run(configure, parser)
