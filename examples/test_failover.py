#!/usr/bin/env python3
"""Rehearses a failover: runs a test VM from a recovery point beside the replication, and removes it (operator)."""

from replica import OFF, RUNNING, arguments, connect, run


def begin(host, vm, point):
    chosen = {} if point is None else {"SnapshotSettingData": host.points(vm)[point].path}
    test = host.call("TestReplicaSystem", ComputerSystem=vm, **chosen)["ResultingSystem"]
    host.request_state(test, RUNNING)
    host.say(f"{host.client.get(test)['ElementName']} runs")


def end(host, vm):
    management = host.client.query("SELECT * FROM Msvm_VirtualSystemManagementService")[0].path
    for test in host.client.related(vm, "Msvm_ReplicaSystemDependency", "Msvm_ComputerSystem"):
        if not host.is_off(test.path):
            host.request_state(test.path, OFF)
        host.call_on(management, "DestroySystem", AffectedSystem=test.path)


def rehearse(options):
    host = connect(options, options.host)
    vm = host.vm(options.vm)
    if options.end:
        end(host, vm)
    else:
        begin(host, vm, options.point)


parser = arguments(__doc__)
parser.add_argument("host", help="HOST or HOST:PORT, which holds the replica")
parser.add_argument("vm", help="the VM's name")
parser.add_argument("--point", type=int, metavar="N", help="0 is the oldest, -1 the latest recovery point")
parser.add_argument("--end", action="store_true", help="remove the test VM")
run(rehearse, parser)
