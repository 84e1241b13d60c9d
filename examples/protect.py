#!/usr/bin/env python3
"""Replicates a VM to another host: makes the relationship, starts the first copy and waits for it (administrator)."""

import json

from replica import arguments, connect, run

CERTIFICATES = 2
OVER_THE_NETWORK = 1
REPLICATING = 3


def protect(options):
    host = connect(options, options.host)
    vm = host.vm(options.vm)
    host.call("TestReplicationConnection", RecoveryConnectionPoint=options.to, AuthenticationType=CERTIFICATES)
    settings = host.client.new(
        "Msvm_ReplicationSettingData",
        RecoveryConnectionPoint=options.to,
        AuthenticationType=CERTIFICATES,
        ReplicationInterval=options.interval,
        RecoveryHistory=options.history,
        # Off in the class: what an interruption left unclear would wait for an operator.
        AutoResynchronizeEnabled=True,
        AdditionalSettings=json.dumps({"recovery_point_spacing_s": options.spacing}),
    )
    host.call("CreateReplicationRelationship", ComputerSystem=vm, ReplicationSettingData=settings)
    host.call("StartReplication", ComputerSystem=vm, InitialReplicationType=OVER_THE_NETWORK)
    host.wait_for_state(vm, REPLICATING)


parser = arguments(__doc__)
parser.add_argument("host", help="HOST or HOST:PORT, which runs the VM")
parser.add_argument("vm", help="the VM's name")
parser.add_argument("--to", required=True, metavar="NAME", help="the host that is to hold the replica")
parser.add_argument("--interval", type=int, default=30, metavar="S", help="seconds between replications (30)")
parser.add_argument("--history", type=int, default=4, metavar="N", help="recovery points beside the latest (4)")
parser.add_argument("--spacing", type=int, default=3600, metavar="S", help="seconds between them (3600)")
run(protect, parser)
