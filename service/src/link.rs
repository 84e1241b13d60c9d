//! The listening end of the replication link: who may say what, and deltas on their way into the store.

use crate::{
    api::{ErrorKind, Failure, error::chain},
    arrivals,
    clock::now_ms,
    commands::seed,
    host::{Host, document},
    owner::{Mail, OwnerHandle, blocking},
    peer::{Answer, DeltaExtra, Message, PeerDisk, PeerRequest, PeerResult, UNKNOWN_HERE},
};
use engine::{OfferAnswer, Operation, Relationship, Settings};
use futures::{FutureExt, future::BoxFuture};
use layers::{DeltaWriter, Incoming, IncomingDisk, LayersError};
use model::{DeltaId, DiskId, Generation, HostName, Mode, PointKind, VmId};
use serde_json::Value;
use std::{sync::Arc, time::Instant};
use transport::{ChunkStream, Credential, DeltaHeader, Handler, Peer, Received};

/// Data between two durable marks of a transfer: what an interruption can cost.
const MARK_EVERY_BYTES: u64 = 64 << 20;

pub struct Link {
    pub host: Arc<Host>,
}

impl Handler for Link {
    fn call<'a>(&'a self, peer: &'a Peer, request: Value) -> BoxFuture<'a, Result<Value, Value>> {
        async move {
            let message: Message = serde_json::from_value(request).map_err(|error| {
                refusal(&Failure::new(
                    ErrorKind::IncompatiblePeer,
                    "malformed",
                    format!("malformed message: {error}"),
                ))
            })?;
            let answer = self.answer(peer, message).await.map_err(|failure| refusal(&failure))?;
            Ok(serde_json::to_value(answer).expect("plain data"))
        }
        .boxed()
    }

    fn receive<'a>(
        &'a self,
        peer: &'a Peer,
        header: DeltaHeader,
        chunks: ChunkStream,
    ) -> BoxFuture<'a, Result<Value, Value>> {
        self.receive_delta(peer, header, chunks).boxed()
    }
}

fn refusal(failure: &Failure) -> Value {
    serde_json::to_value(failure).expect("plain data")
}

fn offer_refusal(answer: &OfferAnswer) -> Value {
    serde_json::to_value(answer).expect("plain data")
}

impl Link {
    /// The sender must be who its certificate or its ticket says, and authorized here.
    fn admit(&self, peer: &Peer, from: &HostName) -> Result<transport::Authorization, Failure> {
        if !peer.names.contains(from) {
            let names: Vec<_> = peer.names.iter().map(HostName::as_str).collect();
            let shown = match &peer.credential {
                Credential::Certificate { .. } => format!("a certificate for {}", names.join(", ")),
                Credential::Principal(principal) => format!("a ticket of {principal}"),
            };
            return Err(Failure::new(
                ErrorKind::AccessDenied,
                "wrong-name",
                format!("`{from}` showed {} {shown}", self.host.name),
            ));
        }
        self.host.authorization(std::slice::from_ref(from))?.ok_or_else(|| {
            Failure::new(
                ErrorKind::AccessDenied,
                "not-authorized",
                format!("{from} is not authorized on {}", self.host.name),
            )
            .hint(format!("on {}: relevo authorize {from} --storage DIR", self.host.name))
        })
    }

    async fn answer(&self, peer: &Peer, message: Message) -> Result<Answer, Failure> {
        let entry = self.admit(peer, &message.from)?;
        let plain = |result| Answer { standing: None, work: None, last_failure: None, result };
        let Some(vm) = message.vm else {
            let version = env!("CARGO_PKG_VERSION").to_owned();
            let storage = entry.storage.display().to_string();
            return Ok(plain(PeerResult::Probe {
                authorized_for: Some(storage),
                version,
                now_ms: Some(now_ms()),
            }));
        };
        if let PeerRequest::Create { name, settings, disks, extended, seed } = &message.request {
            self.host.receives()?;
            let generation = message.standing.as_ref().map(|standing| standing.generation.clone());
            let generation = generation.ok_or_else(|| {
                Failure::new(ErrorKind::InvalidParameter, "malformed", "a replica needs a generation")
            })?;
            if *extended && self.keeps_extended(vm, &message.from, settings).await? {
                return Ok(plain(PeerResult::Done));
            }
            let mut record = Relationship::replica(
                vm,
                name.clone(),
                self.host.name.clone(),
                message.from.clone(),
                settings.clone(),
                generation,
            );
            if *extended {
                record.mode = Mode::ExtendedReplica;
            }
            let link = Self { host: self.host.clone() };
            let (disks, seed) = (disks.clone(), *seed);
            let owner = blocking(move || link.create(record, &disks, seed, &entry)).await?;
            if let Some(id) = seed {
                owner.operate(Operation::Seed { id }, None).await?;
            }
            return Ok(plain(PeerResult::Done));
        }
        if let PeerRequest::FindSeed { disks } = message.request {
            let host = self.host.clone();
            let from = message.from;
            let find = move || {
                host.may_feed(vm, &from, &entry)?;
                seed::fitting(&host, vm, &disks)
            };
            let found = blocking(find).await;
            return Ok(plain(match found {
                Ok(_) => PeerResult::Done,
                Err(failure) => PeerResult::Refused { failure },
            }));
        }
        let Some(owner) = self.host.owner(vm) else {
            return Err(Failure::new(
                ErrorKind::NotFound,
                UNKNOWN_HERE,
                format!("{} has no relationship for this VM", self.host.name),
            ));
        };
        let Some(owner) = self.replicates_with(vm, &message.from) else {
            if owner.record().former_peers.contains(&message.from) {
                return Ok(self.former_peer(&owner, message).await);
            }
            return Err(Failure::new(
                ErrorKind::AccessDenied,
                "not-the-peer",
                format!(
                    "{} replicates this VM with {}, not with {}",
                    self.host.name,
                    owner.record().peer,
                    message.from
                ),
            ));
        };
        owner.peer(message).await.ok_or_else(|| {
            Failure::new(
                ErrorKind::NotFound,
                UNKNOWN_HERE,
                format!("{} no longer has this VM", self.host.name),
            )
        })
    }

    /// The owner of the VM's relationship with this host.
    fn replicates_with(&self, vm: VmId, host: &HostName) -> Option<OwnerHandle> {
        let owners = [self.host.owner(vm), self.host.extended(vm)].into_iter().flatten();
        owners.into_iter().find(|owner| owner.record().peer == *host)
    }

    /// A host that was the peer before still tells and hears who may run the VM, and nothing else.
    async fn former_peer(&self, owner: &OwnerHandle, message: Message) -> Answer {
        if let Some(standing) = message.standing {
            owner.hear_beyond(standing).await;
        }
        let record = owner.record();
        let name = &record.name;
        let text = format!(
            "{} replicates {name} with {} now, not with {}",
            self.host.name, record.peer, message.from
        );
        let failure = Failure::new(ErrorKind::AccessDenied, "not-the-peer", text)
            .hint(format!("on {}: `relevo unprotect {name}` ends it there too", message.from));
        let running = owner.record().may_run();
        Answer {
            standing: Some(record.standing(running)),
            work: None,
            last_failure: None,
            result: PeerResult::Refused { failure },
        }
    }

    /// An extended replica that is there already keeps its points, which are compared; its settings are the new ones.
    async fn keeps_extended(&self, vm: VmId, from: &HostName, settings: &Settings) -> Result<bool, Failure> {
        let Some(owner) = self.host.owner(vm) else { return Ok(false) };
        let known = owner.record();
        if known.peer != *from || known.mode != Mode::ExtendedReplica || known.failed_over.is_some() {
            return Ok(false);
        }
        let settings = settings.clone();
        owner.amend(move |record| record.settings = settings).await?;
        Ok(true)
    }

    /// The replica's record, storage and disks; making it twice for the same primary changes nothing.
    fn create(
        &self,
        record: Relationship,
        disks: &[PeerDisk],
        seed: Option<DeltaId>,
        entry: &transport::Authorization,
    ) -> Result<OwnerHandle, Failure> {
        let (host, vm) = (&self.host, record.vm);
        if let Some(owner) = host.owner(vm) {
            let known = owner.record();
            if known.peer == record.peer && known.mode == record.mode && known.latest.is_none() {
                return Ok(owner);
            }
            return Err(Failure::new(
                ErrorKind::AlreadyExists,
                "replica-exists",
                format!("{} already has {} ({vm}), of {}", host.name, known.name, known.peer),
            )
            .hint(format!(
                "on {}: `relevo unprotect {} --delete-replica` if it is not needed any more",
                host.name, known.name
            )));
        }
        let seed = seed.map(|_| seed::fitting(host, vm, disks)).transpose()?;
        if seed.is_none()
            && let Ok(Some(domain)) = host.hypervisor.domain(vm)
        {
            let message = format!("{} already defines a VM with this UUID: {}", host.name, domain.name);
            return Err(Failure::new(ErrorKind::AlreadyExists, "vm-exists", message).hint(format!(
                "if it is a copy of the same VM: `relevo seed {}` on {}, then protect with --seed",
                domain.name, host.name
            )));
        }
        host.may_feed(vm, &record.peer, entry)?;
        writable(&entry.storage)?;
        host.save_disks(vm, &seed::records(seed.as_ref(), disks))?;
        host.put_document(vm, document::STORAGE, &entry.storage)?;
        host.put_document(vm, document::TRUST_GROUP, &entry.trust_group)?;
        host.adopt(record)
    }

    async fn receive_delta(
        &self,
        peer: &Peer,
        header: DeltaHeader,
        chunks: ChunkStream,
    ) -> Result<Value, Value> {
        let extra: DeltaExtra = serde_json::from_value(header.extra.clone()).map_err(|error| {
            refusal(&Failure::new(
                ErrorKind::IncompatiblePeer,
                "malformed",
                format!("malformed delta: {error}"),
            ))
        })?;
        let entry = self.admit(peer, &extra.from).map_err(|failure| refusal(&failure))?;
        self.host.may_feed(header.vm, &extra.from, &entry).map_err(|failure| refusal(&failure))?;
        self.host.receives().map_err(|failure| refusal(&failure))?;
        let owner = self.host.owner(header.vm);
        let owner = owner.filter(|owner| owner.record().peer == extra.from).ok_or_else(|| {
            refusal(&Failure::new(
                ErrorKind::NotFound,
                UNKNOWN_HERE,
                "no replica of this VM is kept for this host",
            ))
        })?;
        let delta = header.delta;
        let generation = extra.standing.generation.clone();
        match owner.record().consider(&generation, delta, header.base) {
            OfferAnswer::Send => {}
            OfferAnswer::Have => return Ok(Value::Null),
            other => return Err(offer_refusal(&other)),
        }
        let mut place = None;
        if extra.kind != PointKind::Planned {
            let long = arrivals::is_long(&extra.standing, header.base);
            place = self.host.arrivals.enter(owner.vm, long, Instant::now());
            if place.is_none() {
                return Err(offer_refusal(&OfferAnswer::Busy));
            }
        }
        if !owner.begin_receiving(delta) {
            return Err(offer_refusal(&OfferAnswer::Busy));
        }
        let (base, disks, targets) = (header.base, header.disks.clone(), extra.targets.clone());
        let domain_xml = extra.domain_xml.clone();
        let written = self.write(header, extra, chunks).await;
        let result = match written {
            Ok(sealed) => {
                owner.commit(delta, sealed, generation, base).await.map_err(|answer| offer_refusal(&answer))
            }
            Err(failure) => Err(failure),
        };
        owner.end_receiving(delta);
        drop(place);
        let vm = owner.vm;
        if result.is_ok() {
            self.note_disks(vm, &disks, &targets);
            owner.follow_name(&domain_xml).await;
            if let Some(extended) = self.host.extended(vm) {
                extended.follow_name(&domain_xml).await;
            }
            crate::upkeep::after_point(&self.host, vm);
        }
        result.map(|()| Value::Null)
    }

    /// A disk may have grown, or been added. One that was left out stays known: older points have it.
    fn note_disks(&self, vm: VmId, disks: &[transport::DeltaDisk], targets: &[(DiskId, String)]) {
        let noted = self.host.disks(vm).and_then(|before| {
            let mut records = before.clone();
            for disk in disks {
                let target =
                    targets.iter().find(|(id, _)| *id == disk.disk).map(|(_, target)| target.clone());
                match (records.iter_mut().find(|record| record.disk == disk.disk), target) {
                    (Some(record), _) => record.size_bytes = disk.size_bytes,
                    (None, Some(target)) => {
                        let added = PeerDisk { disk: disk.disk, target, size_bytes: disk.size_bytes };
                        records.extend(seed::records(None, &[added]));
                    }
                    (None, None) => {}
                }
            }
            if records == before { Ok(()) } else { self.host.save_disks(vm, &records) }
        });
        if let Err(failure) = noted {
            tracing::warn!(%vm, %failure, "cannot note the replica's disks");
        }
    }

    async fn write(
        &self,
        header: DeltaHeader,
        extra: DeltaExtra,
        chunks: ChunkStream,
    ) -> Result<layers::Sealed, Value> {
        let host = self.host.clone();
        blocking(move || write_blocking(&host, &header, extra, chunks)).await
    }
}

fn write_blocking(
    host: &Host,
    header: &DeltaHeader,
    extra: DeltaExtra,
    mut chunks: ChunkStream,
) -> Result<layers::Sealed, Value> {
    let fail = |failure: Failure| refusal(&failure);
    let store = host.store(header.vm).map_err(fail)?;
    let mut small_files = vec![];
    for (name, text) in &extra.small_files {
        let bytes = text.bytes().ok_or_else(|| {
            refusal(&Failure::new(ErrorKind::InvalidParameter, "malformed", "a small file is malformed"))
        })?;
        small_files.push((name.clone(), bytes));
    }
    let incoming = Incoming {
        delta: header.delta,
        base: header.base,
        disks: header
            .disks
            .iter()
            .map(|disk| IncomingDisk { disk: disk.disk, size_bytes: disk.size_bytes })
            .collect(),
        cut_at_ms: extra.cut_at_ms,
        kind: extra.kind,
        domain_xml: extra.domain_xml,
        small_files,
    };
    let from = layers::Mark { frames: header.from.frames, chain: header.from.chain };
    if from.frames == 0 && crate::steps::transfer_mark(&host.catalog, header.vm, header.delta).is_some() {
        // The sender starts again although something is here: what is here is not what it has.
        store.discard(header.delta).map_err(|error| store_refusal(&error))?;
    }
    let mut writer = store.begin(incoming).map_err(|error| store_refusal(&error))?;
    if writer.resume_mark() != from {
        return Err(offer_refusal(&OfferAnswer::Busy));
    }
    receive_into(&mut writer, &mut chunks)?;
    writer.seal().map_err(|error| store_refusal(&error))
}

fn receive_into(writer: &mut DeltaWriter, chunks: &mut ChunkStream) -> Result<(), Value> {
    let mut since_mark = 0;
    let mut last = None;
    loop {
        match chunks.blocking_next() {
            Ok(Received::Chunk { chunk, mark }) => {
                if let model::ChunkContent::Data { bytes, .. } = &chunk.content {
                    since_mark += bytes.len() as u64;
                }
                writer.write(&chunk).map_err(|error| store_refusal(&error))?;
                let mark = layers::Mark { frames: mark.frames, chain: mark.chain };
                last = Some(mark);
                if since_mark >= MARK_EVERY_BYTES {
                    since_mark = 0;
                    writer.mark(mark).map_err(|error| store_refusal(&error))?;
                }
            }
            Ok(Received::End(_)) => return Ok(()),
            Err(error) => {
                // What arrived whole is kept: the next stream goes on from here.
                if let Some(mark) = last
                    && let Err(error) = writer.mark(mark)
                {
                    tracing::warn!(error = chain(&error), "cannot keep the mark of a cut transfer");
                }
                return Err(refusal(&Failure::new(ErrorKind::Failed, "stream", chain(&error))));
            }
        }
    }
}

fn store_refusal(error: &LayersError) -> Value {
    match error {
        LayersError::ChainFull { .. } => offer_refusal(&OfferAnswer::Busy),
        LayersError::WrongBase { latest, .. } => {
            offer_refusal(&OfferAnswer::ResyncNeeded { latest: *latest })
        }
        error => refusal(&store_failure(error)),
    }
}

pub fn store_failure(error: &LayersError) -> Failure {
    let kind = if crate::disk_space::is_full(error) { ErrorKind::NoSpace } else { ErrorKind::Failed };
    Failure::new(kind, "replica-store", format!("the replica's store: {}", chain(error)))
}

/// A storage location has to exist and be writable before anything is promised.
pub fn writable(folder: &std::path::Path) -> Result<(), Failure> {
    let problem = |why: String| {
        Failure::new(ErrorKind::NotFound, "storage", format!("storage location {}: {why}", folder.display()))
            .hint("make the folder, or authorize the host with another --storage")
    };
    if !folder.is_absolute() {
        return Err(problem("the path is not absolute".to_owned()));
    }
    if !folder.is_dir() {
        return Err(problem("no such folder".to_owned()));
    }
    let probe = folder.join(format!(".relevo-{}", uuid::Uuid::new_v4()));
    std::fs::write(&probe, b"").map_err(|error| problem(format!("not writable: {error}")))?;
    std::fs::remove_file(&probe).map_err(|error| problem(format!("not writable: {error}")))
}

impl crate::owner::OwnerHandle {
    /// Reserves the replica for one transfer; `false`: another one is under way.
    pub fn begin_receiving(&self, delta: DeltaId) -> bool {
        let mut receiving = self.receiving.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if receiving.is_some() {
            return false;
        }
        *receiving = Some(delta);
        true
    }

    pub fn is_receiving(&self) -> bool {
        self.receiving.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_some()
    }

    pub fn end_receiving(&self, delta: DeltaId) {
        let mut receiving = self.receiving.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *receiving == Some(delta) {
            *receiving = None;
        }
    }

    /// Has the owner make a whole delta a point.
    pub async fn commit(
        &self,
        delta: DeltaId,
        sealed: layers::Sealed,
        generation: Generation,
        base: Option<DeltaId>,
    ) -> Result<(), OfferAnswer> {
        let (reply, committed) = tokio::sync::oneshot::channel();
        self.send(Mail::Commit { delta, sealed: Box::new(sealed), generation, base, reply }).await;
        committed.await.unwrap_or(Err(OfferAnswer::Busy))
    }
}

impl Host {
    /// Tells a VM's owner how its peer stands, and waits until it has taken note.
    pub async fn hear(&self, vm: VmId, standing: Option<engine::Standing>) {
        let (Some(owner), Some(standing)) = (self.owner(vm), standing) else { return };
        owner.send(Mail::Greeted(Ok(standing))).await;
    }
}
