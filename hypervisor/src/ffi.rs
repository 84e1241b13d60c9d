//! The only unsafe code: libvirt's C functions that the `virt` crate does not wrap, as safe functions over
//! its `Connect` and `Domain`. Nothing here decides anything.
//!
//! Contract of every function: the references passed in keep libvirt's objects alive for the call; strings
//! are copied in and out; what libvirt allocates is freed here.
#![allow(unsafe_code)]

use crate::{
    BackupOutcome, BlockJob, BlockJobKind,
    events::{Bus, Change, Event},
};
use model::VmId;
use std::{
    ffi::{CStr, CString, c_char, c_int, c_short, c_uint, c_void},
    fs::File,
    mem,
    os::fd::AsRawFd,
    ptr,
    sync::Arc,
};
use virt::{connect::Connect, domain::Domain, error::Error, sys};

type Result<T> = std::result::Result<T, Error>;

/// Whether another process holds a POSIX or OFD lock on a file, as libvirt does on its pid files and QEMU on
/// its images.
pub fn is_locked(file: &File) -> bool {
    // SAFETY: zeroes are a valid `flock`: from the start to the end.
    let mut lock: libc::flock = unsafe { mem::zeroed() };
    lock.l_type = libc::F_WRLCK as c_short;
    lock.l_whence = libc::SEEK_SET as c_short;
    // SAFETY: the descriptor is open for the call, and the lock is a live, initialized `flock`.
    let answered = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut lock) };
    answered == 0 && lock.l_type != libc::F_UNLCK as c_short
}

/// Locks all of a file, until it is closed, against everybody who locks a part of it. False when somebody has.
pub fn lock(file: &File) -> bool {
    // SAFETY: zeroes are a valid `flock`: from the start to the end; OFD locks want a `l_pid` of 0.
    let mut lock: libc::flock = unsafe { mem::zeroed() };
    lock.l_type = libc::F_WRLCK as c_short;
    lock.l_whence = libc::SEEK_SET as c_short;
    // SAFETY: the descriptor is open for the call, and the lock is a live, initialized `flock`.
    let answered = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    let taken = [Some(libc::EAGAIN), Some(libc::EACCES)];
    answered == 0 || !taken.contains(&std::io::Error::last_os_error().raw_os_error())
}

/// Gives back to the system what was freed. glibc keeps it in an arena for each thread that libvirt or we
/// ever had: after a first copy, tens of MiB of which a twentieth is in use.
pub fn trim_heap() {
    // SAFETY: it takes glibc's own locks, and touches nothing that is allocated.
    unsafe { libc::malloc_trim(0) };
}

/// A checkpoint's handle.
pub struct Checkpoint {
    ptr: sys::virDomainCheckpointPtr,
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        // SAFETY: the pointer came from libvirt with one reference, which this handle owns.
        unsafe { sys::virDomainCheckpointFree(self.ptr) };
    }
}

impl Checkpoint {
    fn owned(ptr: sys::virDomainCheckpointPtr) -> Result<Self> {
        if ptr.is_null() { Err(Error::last_error()) } else { Ok(Self { ptr }) }
    }

    pub fn name(&self) -> String {
        // SAFETY: the handle is live; the name belongs to it and is copied at once.
        unsafe { borrowed_string(sys::virDomainCheckpointGetName(self.ptr)) }
    }

    pub fn xml(&self, flags: sys::virDomainCheckpointXMLFlags) -> Result<String> {
        // SAFETY: the handle is live; libvirt returns a malloc'd string or null.
        unsafe { owned_string(sys::virDomainCheckpointGetXMLDesc(self.ptr, flags)) }
    }

    pub fn delete(&self, flags: sys::virDomainCheckpointDeleteFlags) -> Result<()> {
        // SAFETY: the handle is live.
        check(unsafe { sys::virDomainCheckpointDelete(self.ptr, flags) }).map(drop)
    }
}

pub fn create_checkpoint(
    domain: &Domain,
    xml: &str,
    flags: sys::virDomainCheckpointCreateFlags,
) -> Result<Checkpoint> {
    let xml = CString::new(xml)?;
    // SAFETY: domain and string outlive the call.
    Checkpoint::owned(unsafe { sys::virDomainCheckpointCreateXML(domain.as_ptr(), xml.as_ptr(), flags) })
}

pub fn lookup_checkpoint(domain: &Domain, name: &str) -> Result<Checkpoint> {
    let name = CString::new(name)?;
    // SAFETY: domain and string outlive the call.
    Checkpoint::owned(unsafe { sys::virDomainCheckpointLookupByName(domain.as_ptr(), name.as_ptr(), 0) })
}

/// All checkpoints, parents before children.
pub fn list_checkpoints(domain: &Domain) -> Result<Vec<Checkpoint>> {
    let mut list: *mut sys::virDomainCheckpointPtr = ptr::null_mut();
    // SAFETY: libvirt fills `list` with a malloc'd array of as many handles as it returns, each one ours.
    unsafe {
        let flags = sys::VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL;
        let count = check(sys::virDomainListAllCheckpoints(domain.as_ptr(), &raw mut list, flags))?;
        let handles = (0..count as usize).map(|index| Checkpoint { ptr: *list.add(index) }).collect();
        libc::free(list.cast());
        Ok(handles)
    }
}

pub fn backup_begin(domain: &Domain, backup_xml: &str, checkpoint_xml: Option<&str>) -> Result<()> {
    let backup_xml = CString::new(backup_xml)?;
    let checkpoint_xml = checkpoint_xml.map(CString::new).transpose()?;
    let checkpoint = checkpoint_xml.as_ref().map_or(ptr::null(), |xml| xml.as_ptr());
    // SAFETY: domain and strings outlive the call; a null checkpoint means none.
    check(unsafe { sys::virDomainBackupBegin(domain.as_ptr(), backup_xml.as_ptr(), checkpoint, 0) }).map(drop)
}

/// The XML of the running backup; an error when there is none.
pub fn backup_xml(domain: &Domain) -> Result<String> {
    // SAFETY: domain outlives the call; libvirt returns a malloc'd string or null.
    unsafe { owned_string(sys::virDomainBackupGetXMLDesc(domain.as_ptr(), 0)) }
}

pub fn abort_job(domain: &Domain) -> Result<()> {
    // SAFETY: domain outlives the call.
    check(unsafe { sys::virDomainAbortJob(domain.as_ptr()) }).map(drop)
}

/// What libvirt remembers of the domain's last job; `None` when nothing. Not `virt`'s own function: that one
/// is undefined behaviour when there are no parameters.
pub fn completed_job(domain: &Domain, flags: sys::virDomainGetJobStatsFlags) -> Result<Option<JobEnd>> {
    let (mut kind, mut count) = (0, 0);
    let mut params: sys::virTypedParameterPtr = ptr::null_mut();
    let flags = flags | sys::VIR_DOMAIN_JOB_STATS_COMPLETED;
    // SAFETY: domain and out parameters outlive the call; libvirt fills `params` with `count` parameters,
    // which are ours to free.
    unsafe {
        check(sys::virDomainGetJobStats(
            domain.as_ptr(),
            &raw mut kind,
            &raw mut params,
            &raw mut count,
            flags,
        ))?;
        let end = job_end(borrowed_slice(params, count));
        sys::virTypedParamsFree(params, count);
        Ok((kind as c_uint != sys::VIR_DOMAIN_JOB_NONE).then_some(end))
    }
}

pub fn block_commit(
    domain: &Domain,
    disk: &str,
    base: Option<&str>,
    top: Option<&str>,
    flags: sys::virDomainBlockCommitFlags,
) -> Result<()> {
    let disk = CString::new(disk)?;
    let base = base.map(CString::new).transpose()?;
    let top = top.map(CString::new).transpose()?;
    let base = base.as_ref().map_or(ptr::null(), |path| path.as_ptr());
    let top = top.as_ref().map_or(ptr::null(), |path| path.as_ptr());
    // SAFETY: domain and strings outlive the call; null base and top mean bottom and active layer.
    check(unsafe { sys::virDomainBlockCommit(domain.as_ptr(), disk.as_ptr(), base, top, 0, flags) }).map(drop)
}

pub fn block_job(domain: &Domain, disk: &str) -> Result<Option<BlockJob>> {
    let disk = CString::new(disk)?;
    let mut info = sys::virDomainBlockJobInfo { type_: 0, bandwidth: 0, cur: 0, end: 0 };
    // SAFETY: domain, string and `info` outlive the call.
    let found =
        check(unsafe { sys::virDomainGetBlockJobInfo(domain.as_ptr(), disk.as_ptr(), &raw mut info, 0) })?;
    let job = BlockJob {
        kind: match info.type_ as c_uint {
            sys::VIR_DOMAIN_BLOCK_JOB_TYPE_PULL => BlockJobKind::Pull,
            sys::VIR_DOMAIN_BLOCK_JOB_TYPE_COPY => BlockJobKind::Copy,
            sys::VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT => BlockJobKind::Commit,
            sys::VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT => BlockJobKind::ActiveCommit,
            sys::VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP => BlockJobKind::Backup,
            _ => BlockJobKind::Other,
        },
        done_bytes: info.cur,
        end_bytes: info.end,
    };
    Ok((found == 1).then_some(job))
}

pub fn block_job_abort(domain: &Domain, disk: &str, flags: sys::virDomainBlockJobAbortFlags) -> Result<()> {
    let disk = CString::new(disk)?;
    // SAFETY: domain and string outlive the call.
    check(unsafe { sys::virDomainBlockJobAbort(domain.as_ptr(), disk.as_ptr(), flags) }).map(drop)
}

/// How a domain job ended.
pub struct JobEnd {
    pub backup: bool,
    pub outcome: BackupOutcome,
}

fn job_end(params: &[sys::virTypedParameter]) -> JobEnd {
    let backup = sys::VIR_DOMAIN_JOB_OPERATION_BACKUP as c_int;
    JobEnd {
        backup: int_param(params, sys::VIR_DOMAIN_JOB_OPERATION) == Some(backup),
        outcome: BackupOutcome {
            // Absent only where libvirt is too old to back up at all.
            success: int_param(params, sys::VIR_DOMAIN_JOB_SUCCESS) == Some(1),
            error: string_param(params, sys::VIR_DOMAIN_JOB_ERRMSG),
            bytes: u64_param(params, sys::VIR_DOMAIN_JOB_DISK_PROCESSED).unwrap_or(0),
        },
    }
}

/// Freezes all file systems; how many were frozen.
pub fn freeze(domain: &Domain) -> Result<u32> {
    // SAFETY: domain outlives the call; a null list means all file systems.
    check(unsafe { sys::virDomainFSFreeze(domain.as_ptr(), ptr::null_mut(), 0, 0) })
}

pub fn thaw(domain: &Domain) -> Result<u32> {
    // SAFETY: as in `freeze`.
    check(unsafe { sys::virDomainFSThaw(domain.as_ptr(), ptr::null_mut(), 0, 0) })
}

/// How long libvirt waits for the guest agent's answers from now on.
pub fn set_agent_timeout(domain: &Domain, timeout_s: i32) -> Result<()> {
    // SAFETY: domain outlives the call.
    check(unsafe { sys::virDomainAgentSetResponseTimeout(domain.as_ptr(), timeout_s, 0) }).map(drop)
}

/// Everything that was registered with a connection; dropping it deregisters.
pub struct Registrations {
    _events: Vec<Registration>,
    _close: CloseRegistration,
}

struct CloseRegistration {
    connection: Connect,
    _bus: Arc<Bus>,
}

impl Drop for CloseRegistration {
    fn drop(&mut self) {
        // SAFETY: the connection is live. libvirt waits for a callback that runs, and a callback that is
        // not registered is only refused.
        unsafe { sys::virConnectUnregisterCloseCallback(self.connection.as_ptr(), Some(on_close)) };
    }
}

struct Registration {
    connection: Connect,
    id: c_int,
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: the connection is live, and the id was given by it and is given back once.
        unsafe { sys::virConnectDomainEventDeregisterAny(self.connection.as_ptr(), self.id) };
    }
}

/// Sends every event of the connection that [`Event`] knows to `bus`, until the registrations are dropped.
pub fn register_events(connection: &Connect, bus: &Arc<Bus>) -> Result<Registrations> {
    type Callback = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);
    type Lifecycle =
        unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;
    type JobCompleted = unsafe extern "C" fn(
        sys::virConnectPtr,
        sys::virDomainPtr,
        sys::virTypedParameterPtr,
        c_int,
        *mut c_void,
    );
    type BlockJobChanged =
        unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *const c_char, c_int, c_int, *mut c_void);
    type Agent = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void);

    // SAFETY: libvirt casts each callback back to the signature that belongs to its event id before it
    // calls it (`VIR_DOMAIN_EVENT_CALLBACK`); the pairs below are those of libvirt-domain.h.
    let callbacks: [(c_uint, Callback); 4] = unsafe {
        [
            (
                sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE,
                std::mem::transmute::<Lifecycle, Callback>(on_lifecycle as Lifecycle),
            ),
            (
                sys::VIR_DOMAIN_EVENT_ID_JOB_COMPLETED,
                std::mem::transmute::<JobCompleted, Callback>(on_job_completed as JobCompleted),
            ),
            (
                sys::VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
                std::mem::transmute::<BlockJobChanged, Callback>(on_block_job as BlockJobChanged),
            ),
            (
                sys::VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE,
                std::mem::transmute::<Agent, Callback>(on_agent as Agent),
            ),
        ]
    };
    let mut registrations = vec![];
    for (event, callback) in callbacks {
        let opaque = Arc::into_raw(bus.clone()).cast_mut().cast::<c_void>();
        // SAFETY: `opaque` is a counted reference that `free_bus` gives back when libvirt drops the
        // callback; a null domain means all domains.
        let id = unsafe {
            sys::virConnectDomainEventRegisterAny(
                connection.as_ptr(),
                ptr::null_mut(),
                event as c_int,
                Some(callback),
                opaque,
                Some(free_bus),
            )
        };
        if id < 0 {
            let error = Error::last_error();
            // SAFETY: libvirt does not call the free function of a callback that it refused.
            unsafe { free_bus(opaque) };
            return Err(error);
        }
        registrations.push(Registration { connection: connection.clone(), id });
    }
    let opaque = Arc::as_ptr(bus).cast_mut().cast::<c_void>();
    // SAFETY: the bus outlives the callback: `CloseRegistration` holds it and takes the callback back before
    // it lets go. (The embedded driver accepts the callback and forgets it, so it could not free anything.)
    let result =
        unsafe { sys::virConnectRegisterCloseCallback(connection.as_ptr(), Some(on_close), opaque, None) };
    check(result)?;
    let close = CloseRegistration { connection: connection.clone(), _bus: bus.clone() };
    Ok(Registrations { _events: registrations, _close: close })
}

unsafe extern "C" fn free_bus(opaque: *mut c_void) {
    // SAFETY: `opaque` came from `Arc::into_raw` and is given back once.
    drop(unsafe { Arc::from_raw(opaque.cast::<Bus>().cast_const()) });
}

unsafe extern "C" fn on_close(_: sys::virConnectPtr, _: c_int, opaque: *mut c_void) {
    // SAFETY: libvirt passes the pointer that was registered; the reference is still held.
    unsafe { bus(opaque) }.publish(&Event::ConnectionClosed);
}

unsafe extern "C" fn on_lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    let change = match event as c_uint {
        sys::VIR_DOMAIN_EVENT_DEFINED => Change::Defined,
        sys::VIR_DOMAIN_EVENT_UNDEFINED => Change::Undefined,
        sys::VIR_DOMAIN_EVENT_STARTED => Change::Started,
        sys::VIR_DOMAIN_EVENT_SUSPENDED => Change::Paused,
        sys::VIR_DOMAIN_EVENT_RESUMED => Change::Resumed,
        sys::VIR_DOMAIN_EVENT_STOPPED if detail as c_uint == sys::VIR_DOMAIN_EVENT_STOPPED_CRASHED => {
            Change::Crashed
        }
        sys::VIR_DOMAIN_EVENT_STOPPED => Change::Stopped,
        sys::VIR_DOMAIN_EVENT_SHUTDOWN => Change::ShuttingDown,
        sys::VIR_DOMAIN_EVENT_CRASHED => Change::Crashed,
        _ => Change::Other,
    };
    // SAFETY: the domain is live for the call, `opaque` is the registered bus.
    unsafe { bus(opaque).publish(&Event::Lifecycle { vm: vm_id(domain), change }) };
    0
}

unsafe extern "C" fn on_job_completed(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    params: sys::virTypedParameterPtr,
    count: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt passes `count` parameters, which it keeps and frees itself.
    let JobEnd { backup, outcome } = job_end(unsafe { borrowed_slice(params, count) });
    // SAFETY: the domain is live for the call, `opaque` is the registered bus.
    unsafe {
        let vm = vm_id(domain);
        bus(opaque).publish(&Event::JobCompleted { vm, backup, outcome });
    }
}

unsafe extern "C" fn on_block_job(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    disk: *const c_char,
    _: c_int,
    status: c_int,
    opaque: *mut c_void,
) {
    use crate::events::BlockJobStatus::{Cancelled, Completed, Failed, Ready};
    let status = match status as c_uint {
        sys::VIR_DOMAIN_BLOCK_JOB_COMPLETED => Completed,
        sys::VIR_DOMAIN_BLOCK_JOB_CANCELED => Cancelled,
        sys::VIR_DOMAIN_BLOCK_JOB_READY => Ready,
        _ => Failed,
    };
    // SAFETY: domain and disk name are live for the call, `opaque` is the registered bus.
    unsafe {
        let event = Event::BlockJob { vm: vm_id(domain), disk: borrowed_string(disk), status };
        bus(opaque).publish(&event);
    }
}

unsafe extern "C" fn on_agent(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    state: c_int,
    _: c_int,
    opaque: *mut c_void,
) {
    let connected = state as c_uint == sys::VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED;
    // SAFETY: the domain is live for the call, `opaque` is the registered bus.
    unsafe { bus(opaque).publish(&Event::Agent { vm: vm_id(domain), connected }) };
}

/// SAFETY: `opaque` must be the pointer that `register_events` made, its reference not yet given back.
unsafe fn bus<'a>(opaque: *mut c_void) -> &'a Bus {
    // SAFETY: as required above.
    unsafe { &*opaque.cast::<Bus>() }
}

/// SAFETY: `domain` must be live.
unsafe fn vm_id(domain: sys::virDomainPtr) -> VmId {
    let mut bytes = [0u8; 16];
    // SAFETY: libvirt writes the 16 bytes of VIR_UUID_BUFLEN.
    unsafe { sys::virDomainGetUUID(domain, bytes.as_mut_ptr()) };
    VmId(uuid::Uuid::from_bytes(bytes))
}

fn check(result: c_int) -> Result<u32> {
    u32::try_from(result).map_err(|_| Error::last_error())
}

/// SAFETY: `text` must be null or a malloc'd C string that nobody else frees.
unsafe fn owned_string(text: *mut c_char) -> Result<String> {
    if text.is_null() {
        return Err(Error::last_error());
    }
    // SAFETY: as required above.
    unsafe {
        let copy = borrowed_string(text);
        libc::free(text.cast());
        Ok(copy)
    }
}

/// SAFETY: `text` must be null or a C string that lives for the call.
unsafe fn borrowed_string(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as required above.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// SAFETY: `params` must point to `count` parameters that live as long as the result is used.
unsafe fn borrowed_slice<'a>(
    params: sys::virTypedParameterPtr,
    count: c_int,
) -> &'a [sys::virTypedParameter] {
    let count = usize::try_from(count).unwrap_or(0);
    if params.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: as required above.
    unsafe { std::slice::from_raw_parts(params, count) }
}

fn param<'a>(params: &'a [sys::virTypedParameter], name: &CStr) -> Option<&'a sys::virTypedParameter> {
    let matches = |param: &&sys::virTypedParameter| {
        // SAFETY: libvirt ends the name with a zero inside its fixed field.
        unsafe { CStr::from_ptr(param.field.as_ptr()) == name }
    };
    params.iter().find(matches)
}

fn int_param(params: &[sys::virTypedParameter], name: &CStr) -> Option<c_int> {
    let param = param(params, name)?;
    match param.type_ as c_uint {
        // SAFETY: the type says which member of the union is set.
        sys::VIR_TYPED_PARAM_INT => Some(unsafe { param.value.i }),
        // SAFETY: as above.
        sys::VIR_TYPED_PARAM_BOOLEAN => Some(unsafe { param.value.b }.into()),
        _ => None,
    }
}

fn u64_param(params: &[sys::virTypedParameter], name: &CStr) -> Option<u64> {
    let param = param(params, name)?;
    match param.type_ as c_uint {
        // SAFETY: the type says which member of the union is set.
        sys::VIR_TYPED_PARAM_ULLONG => Some(unsafe { param.value.ul }),
        _ => None,
    }
}

fn string_param(params: &[sys::virTypedParameter], name: &CStr) -> Option<String> {
    let param = param(params, name)?;
    match param.type_ as c_uint {
        // SAFETY: as above; the string lives as long as the parameters.
        sys::VIR_TYPED_PARAM_STRING => Some(unsafe { borrowed_string(param.value.s) }),
        _ => None,
    }
}
