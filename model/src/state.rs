//! Replication states, modes and health with the numbers of WMI (`Msvm_ReplicationRelationship`,
//! `Msvm_ComputerSystem.ReplicationMode`); PowerShell's numbers differ and are never used.

use serde::{Deserialize, Serialize};

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[repr(u16)]
        pub enum $name { $($(#[$vdoc])* $variant = $number,)* }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub fn number(self) -> u16 {
                self as u16
            }

            /// The documented text, in English.
            pub fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.text())
            }
        }
    };
}

numbered!(
    /// `Msvm_ReplicationRelationship.ReplicationState`.
    ReplicationState {
        Disabled = 0, "disabled";
        Ready = 1, "ready for replication";
        WaitingForInitialReplication = 2, "waiting to complete initial replication";
        Replicating = 3, "replicating";
        /// Prepared for a planned failover: the VM is off, the last delta sent, the token released.
        SyncedReplicationComplete = 4, "synced replication complete";
        /// Failed over, not committed.
        Recovered = 5, "recovered";
        /// Failed over, committed.
        Committed = 6, "committed";
        Suspended = 7, "suspended";
        Critical = 8, "critical";
        WaitingForResynchronize = 9, "waiting to start resynchronization";
        Resynchronizing = 10, "resynchronizing";
        ResynchronizeSuspended = 11, "resynchronization suspended";
        FailoverInProgress = 12, "failover in progress";
        FailbackInProgress = 13, "failback in progress";
        FailbackComplete = 14, "failback complete";
        DiskUpdateInProgress = 15, "disk update in progress";
        DiskUpdateCritical = 16, "disk update critical";
        FireDrill = 21, "fire drill in progress";
    }
);

numbered!(
    /// `Msvm_ComputerSystem.ReplicationMode`.
    Mode {
        None = 0, "none";
        Primary = 1, "primary";
        Replica = 2, "replica";
        TestReplica = 3, "test replica";
        ExtendedReplica = 4, "extended replica";
    }
);

impl Mode {
    /// Does the host hold a standby of the VM: that of its primary, or that of another replica.
    pub fn is_replica(self) -> bool {
        matches!(self, Self::Replica | Self::ExtendedReplica)
    }
}

numbered!(
    /// `ReplicationHealth`.
    Health {
        NotApplicable = 0, "not applicable";
        Normal = 1, "normal";
        Warning = 2, "warning";
        Critical = 3, "critical";
    }
);

numbered!(
    /// `LastReplicationType`, `FailedOverReplicationType`: what kind of point.
    PointKind {
        Regular = 1, "regular";
        ApplicationConsistent = 2, "application-consistent";
        Planned = 3, "planned";
    }
);
