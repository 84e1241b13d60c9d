#!/usr/bin/env python3
"""Moves a VM to its replica's host on purpose and turns the replication round: nothing is lost (operator)."""

from replica import RUNNING, arguments, connect, run

REPLICATING, PREPARE = 3, 4


def move(options):
    source, target = connect(options, options.source), connect(options, options.target)
    vm, replica = source.vm(options.vm), target.vm(options.vm)
    source.shut_down(vm)
    source.wait_for_state(vm, REPLICATING)
    source.call_on(vm, "RequestReplicationStateChange", RequestedState=PREPARE)
    target.call("InitiateFailover", ComputerSystem=replica)
    target.request_state(replica, RUNNING)
    target.call("ReverseReplicationRelationship", ComputerSystem=replica)
    target.wait_for_state(replica, REPLICATING)


parser = arguments(__doc__)
parser.add_argument("source", help="HOST or HOST:PORT, which runs the VM")
parser.add_argument("target", help="HOST or HOST:PORT, which holds the replica")
parser.add_argument("vm", help="the VM's name")
run(move, parser)
