#!/usr/bin/env python3
"""Lets another host send replicas of its VMs here (administrator)."""

from replica import arguments, connect, run


def authorize(options):
    host = connect(options, options.host)
    entry = host.client.new(
        "Msvm_ReplicationAuthorizationSettingData",
        AllowedPrimaryHostSystem=options.allow,
        ReplicaStorageLocation=options.storage,
        TrustGroup="DEFAULT",
    )
    host.call("AddAuthorizationEntry", AuthorizationEntry=entry)
    for entry in host.client.query("SELECT * FROM Msvm_ReplicationAuthorizationSettingData"):
        host.say(f"{entry['AllowedPrimaryHostSystem']} may send; replicas go to {entry['ReplicaStorageLocation']}")


parser = arguments(__doc__)
parser.add_argument("host", help="HOST or HOST:PORT, which receives")
parser.add_argument("--allow", required=True, metavar="NAME", help="the host that sends")
parser.add_argument("--storage", required=True, metavar="FOLDER", help="where its replicas go, on this host")
run(authorize, parser)
