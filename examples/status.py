#!/usr/bin/env python3
"""Shows a VM's relationship, recovery points and statistics, and what is wrong with it (reader)."""

from replica import HEALTH, MODES, STATES, arguments, connect, listed, run


def status(options):
    host = connect(options, options.host)
    vm = host.vm(options.vm)
    relationship = host.relationship(vm)
    if relationship is None:
        host.say(f"{options.vm} is not replicated")
        return
    mode = MODES[int(host.client.get(vm)["ReplicationMode"])]
    state = STATES[int(relationship["ReplicationState"])]
    health = HEALTH[int(relationship["ReplicationHealth"])]
    host.say(f"{options.vm} is {mode}: {state}, health {health}, last replication {relationship['LastReplicationTime']}")
    for point in host.points(vm):
        kind = point["VirtualSystemType"].rpartition(":")[2]
        host.say(f"point {point['CreationTime']} {kind} {point['InstanceID']}")
    out = host.call("GetReplicationStatistics", ComputerSystem=vm)
    for counted in map(host.client.embedded, listed(out["ReplicationStatistics"])):
        for name in ["ReplicationSuccessCount", "ReplicationSize", "ReplicationMissCount", "ReplicationFailureCount"]:
            host.say(f"{name} {counted[name]}")
    for issue in map(host.client.embedded, listed(out.get("ReplicationHealthIssues"))):
        host.say(f"issue: {issue['Message']}")


parser = arguments(__doc__)
parser.add_argument("host", help="HOST or HOST:PORT")
parser.add_argument("vm", help="the VM's name")
run(status, parser)
