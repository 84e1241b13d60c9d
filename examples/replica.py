"""What the examples share: one host's replication service, over either protocol."""

import argparse
import getpass
import os
import sys
import time

STATES = {
    0: "not replicated",
    1: "ready for replication",
    2: "waiting to complete the first copy",
    3: "replicating",
    4: "prepared for a planned failover",
    5: "failed over, not committed",
    6: "failed over, committed",
    7: "suspended",
    8: "critical",
    9: "waiting for a resynchronization",
    10: "resynchronizing",
    11: "resynchronization suspended",
    12: "failover in progress",
    13: "failback in progress",
    14: "failback complete",
}
MODES = ["none", "primary", "replica", "test replica", "extended replica"]
HEALTH = ["not applicable", "ok", "warning", "critical"]

# RequestedState of Msvm_ComputerSystem.RequestStateChange, and EnabledState.
RUNNING, OFF, SHUT_DOWN = 2, 3, 4
# Return codes.
DONE, JOB_STARTED = 0, 4096
# Msvm_ConcreteJob.JobState: from here on it has ended.
COMPLETED = 7

POLL_S = 0.5


class Refused(Exception):
    """The host refused a call, or its job failed; the text says why."""


class Host:
    """The replication service of one host. VMs, jobs and recovery points are known by their paths."""

    def __init__(self, client, name):
        self.client = client
        self.name = name
        self.service = client.query("SELECT * FROM Msvm_ReplicationService")[0].path

    def say(self, text):
        print(f"{self.name}: {text}", flush=True)

    def vm(self, name):
        """The path of the VM of this name."""
        quoted = name.replace("\\", "\\\\").replace("'", "\\'")
        found = self.client.query(f"SELECT * FROM Msvm_ComputerSystem WHERE ElementName = '{quoted}'")
        if len(found) != 1:
            raise Refused(f"{self.name} has {len(found)} VMs of the name {name}")
        return found[0].path

    def call(self, method, **arguments):
        """Calls a method of the replication service and waits for its job. What came out of it."""
        return self.call_on(self.service, method, **arguments)

    def call_on(self, path, method, **arguments):
        """Calls a method of any object and waits for its job. What came out of it."""
        self.say(method)
        code, out = self.client.invoke(path, method, **arguments)
        if code == JOB_STARTED:
            self.wait_for_job(out["Job"])
        elif code != DONE:
            raise Refused(f"{method}: {code}{self.reasons(out.get('Job'))}")
        return out

    def wait_for_job(self, path):
        told = None
        while True:
            job = self.client.get(path)
            state, progress = int(job["JobState"]), f"{job['JobStatus']}, {job['PercentComplete']} %"
            if progress != told:
                self.say(f"  job: {progress}")
                told = progress
            if state == COMPLETED:
                return
            if state > COMPLETED:
                raise Refused(f"{job['Name']}: {job['ErrorCode']}{self.reasons(path)}")
            time.sleep(POLL_S)

    def reasons(self, job):
        """What a job says about its failure; a refused call has one, too."""
        if job is None:
            return ""
        _, out = self.client.invoke(job, "GetErrorEx")
        errors = [self.client.embedded(error) for error in listed(out.get("Errors"))]
        lines = [line for error in errors for line in [error["Message"], *listed(error["RecommendedActions"])]]
        return ": " + "; ".join(lines)

    def relationship(self, vm):
        """The relationship of a VM, or None."""
        found = self.client.related(vm, "Msvm_SystemReplicationRelationship", "Msvm_ReplicationRelationship")
        return found[0] if found else None

    def settings(self, vm):
        """The replication settings of a VM."""
        relationship = self.relationship(vm)
        if relationship is None:
            raise Refused(f"{self.name} does not replicate this VM")
        found = self.client.related(relationship.path, "Msvm_SettingsDefineState", "Msvm_ReplicationSettingData")
        return found[0]

    def wait_for_state(self, vm, state):
        """Watches the relationship until it is in this state."""
        path, told = self.relationship(vm).path, None
        while told != state:
            now = int(self.client.get(path)["ReplicationState"])
            if now != told:
                self.say(f"  state {now}: {STATES[now]}")
                told = now
            if now != state:
                time.sleep(POLL_S)

    def points(self, vm):
        """The recovery points that this host keeps of a VM, oldest first."""
        found = self.client.related(vm, "Msvm_SnapshotOfVirtualSystem", "Msvm_VirtualSystemSettingData")
        # Text in WS-Management, where trailing zeroes of a second's fraction are left out.
        return sorted(found, key=lambda point: str(point["CreationTime"]).rstrip("Z"))

    def request_state(self, vm, state):
        """Runs a VM, turns it off, or shuts it down."""
        self.call_on(vm, "RequestStateChange", RequestedState=state)

    def is_off(self, vm):
        return int(self.client.get(vm)["EnabledState"]) == OFF

    def shut_down(self, vm):
        if not self.is_off(vm):
            self.request_state(vm, SHUT_DOWN)


def listed(value):
    """An array, which may be NULL or, where the protocol does not tell, a single value."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def arguments(about):
    """A parser of the arguments that all examples have."""
    parser = argparse.ArgumentParser(
        description=about, epilog="The password is asked for, or taken from RELEVO_PASSWORD."
    )
    parser.add_argument("--protocol", choices=["cimxml", "wsman"], default="cimxml")
    parser.add_argument("--user", required=True, help="made by `relevo user add`, with the role that is needed")
    parser.add_argument("--ca", required=True, metavar="FILE", help="PEM: the authority of the hosts' certificates")
    return parser


def connect(options, address):
    """The host at HOST or HOST:PORT."""
    if options.protocol == "wsman":
        from wsman import WsMan as Client
    else:
        from cimxml import CimXml as Client
    host, _, port = address.partition(":")
    password = os.environ.get("RELEVO_PASSWORD") or getpass.getpass(f"Password of {options.user} at {host}: ")
    try:
        return Host(Client(host, int(port or Client.port), options.user, password, options.ca), address)
    except Client.errors as error:
        sys.exit(f"error: {address}: {error}")


def run(example, parser):
    """Runs an example; what a host refuses ends it with a message."""
    try:
        example(parser.parse_args())
    except Refused as error:
        sys.exit(f"error: {error}")
