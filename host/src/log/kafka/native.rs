//! The calls of librdkafka that its Rust wrapper has not: the partition queue of a consumer that
//! belongs to no group, batches of messages taken from it without an allocation for each, wake-ups,
//! and the admin requests that tell topic ids. The only unsafe code of the adapter.
//!
//! Invariant: every native object lives inside a type of this file that destroys it, and none
//! outlives the client that it belongs to.

#![allow(
    unsafe_code,
    reason = "librdkafka is a C library; this file is the boundary"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::message::BorrowedMessage;
use rdkafka_sys as sys;

use super::super::HeaderRef;

mod admin;
mod produce;

pub(super) use admin::{
    Described, create_partitions, create_topic, delete_topic, describe_topics, topic_setting,
};
pub(super) use produce::ProducerTopic;

/// A librdkafka client, whatever its kind.
pub(super) trait NativeHandle: Send + Sync + 'static {
    /// The native client, valid as long as `self`.
    fn native(&self) -> *mut sys::rd_kafka_t;
}

const NO_ERROR: sys::rd_kafka_resp_err_t = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;

fn milliseconds(duration: Duration) -> c_int {
    c_int::try_from(duration.as_millis()).unwrap_or(c_int::MAX)
}

type Wake = Box<dyn Fn() + Send + Sync>;

/// An event queue of a client. Must be dropped before the client.
struct Queue {
    queue: ptr::NonNull<sys::rd_kafka_queue_t>,
    // Boxed twice: librdkafka keeps a thin pointer to the inner, fat one.
    _wake: Option<Box<Wake>>,
}

// SAFETY: librdkafka's queues may be used from any thread.
unsafe impl Send for Queue {}
// SAFETY: as above; `Queue` has no interior state of its own.
unsafe impl Sync for Queue {}

impl Queue {
    /// Takes over one reference to a queue.
    ///
    /// # Safety
    /// `queue` is null or a reference that nobody else destroys.
    unsafe fn own(queue: *mut sys::rd_kafka_queue_t) -> Option<Self> {
        ptr::NonNull::new(queue).map(|queue| Self { queue, _wake: None })
    }

    /// Calls `wake` whenever the queue gets its first element. It is called on librdkafka's
    /// threads, under the queue's lock: it must neither block nor use the queue.
    fn on_first(&mut self, wake: Wake) {
        unsafe extern "C" fn call(_: *mut sys::rd_kafka_t, opaque: *mut c_void) {
            // SAFETY: `opaque` is the box below, alive until the callback is disabled.
            let wake = unsafe { &*opaque.cast::<Wake>() };
            wake();
        }
        let wake = Box::new(wake);
        let opaque = ptr::from_ref::<Wake>(&wake).cast_mut().cast::<c_void>();
        // SAFETY: the queue is alive, and `self` keeps `wake` until `drop` has disabled the
        // callback; disabling takes the queue's lock, so no call is under way after it.
        unsafe { sys::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), Some(call), opaque) };
        self._wake = Some(wake);
    }

    fn len(&self) -> usize {
        // SAFETY: the queue is alive.
        unsafe { sys::rd_kafka_queue_length(self.queue.as_ptr()) }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the queue is alive; the reference that `own` took over is given back here, once.
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
            sys::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

/// Tells when a client has events (log lines, errors, delivery reports, rebalances) that its owner
/// must serve by polling. Must be dropped before the client.
pub(super) struct Events(Queue);

impl Events {
    /// Events of a client that is in no group.
    pub(super) fn of(client: &impl NativeHandle, wake: impl Fn() + Send + Sync + 'static) -> Self {
        // SAFETY: the client is alive; the reference belongs to us.
        let queue = unsafe { Queue::own(sys::rd_kafka_queue_get_main(client.native())) };
        Self::with(queue.expect("every client has a main queue"), wake)
    }

    /// Events of a member of a group.
    pub(super) fn of_member(
        client: &impl NativeHandle,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        // SAFETY: the client is alive; the reference belongs to us.
        let queue = unsafe { Queue::own(sys::rd_kafka_queue_get_consumer(client.native())) };
        Self::with(queue.expect("a consumer with a group has its queue"), wake)
    }

    fn with(mut queue: Queue, wake: impl Fn() + Send + Sync + 'static) -> Self {
        queue.on_first(Box::new(wake));
        Self(queue)
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

/// One partition that is being fetched into a queue of its own.
pub(super) struct PartitionQueue<H: NativeHandle> {
    // `None` only while dropping: it goes before the topic and the client.
    queue: Option<Queue>,
    topic: ptr::NonNull<sys::rd_kafka_topic_t>,
    partition: i32,
    taken: Vec<*mut sys::rd_kafka_message_t>,
    /// Of `taken`, those before it are done with.
    next: usize,
    client: Arc<H>,
}

// SAFETY: librdkafka's topics, queues and messages may be used from any thread; `taken` is only
// reached through `&mut self`, or `&self` for reading.
unsafe impl<H: NativeHandle> Send for PartitionQueue<H> {}
// SAFETY: as above.
unsafe impl<H: NativeHandle> Sync for PartitionQueue<H> {}

impl<H: NativeHandle> PartitionQueue<H> {
    /// Begins to fetch a partition; `wake` is called when the queue gets its first record.
    ///
    /// Reads as a consumer without a group: no coordinator is asked, no right on a group is needed,
    /// and nothing of the partition can arrive anywhere but in this queue.
    pub(super) fn start(
        client: Arc<H>,
        topic: &str,
        partition: i32,
        from: i64,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, Code> {
        let name = CString::new(topic).map_err(|_| Code::InvalidTopic)?;
        // SAFETY: client and name are alive; a null configuration means the default one.
        let native =
            unsafe { sys::rd_kafka_topic_new(client.native(), name.as_ptr(), ptr::null_mut()) };
        let native = ptr::NonNull::new(native).ok_or_else(last_error)?;
        let mut this = Self {
            queue: None,
            topic: native,
            partition,
            taken: Vec::new(),
            next: 0,
            client,
        };
        // SAFETY: client and name are alive; the reference belongs to us.
        let queue = unsafe {
            Queue::own(sys::rd_kafka_queue_get_partition(
                this.client.native(),
                name.as_ptr(),
                partition,
            ))
        };
        let mut queue = queue.ok_or(Code::UnknownPartition)?;
        queue.on_first(Box::new(wake));
        // SAFETY: the topic is alive.
        let started = unsafe { sys::rd_kafka_consume_start(native.as_ptr(), partition, from) };
        if started == -1 {
            return Err(last_error());
        }
        this.queue = Some(queue);
        Ok(this)
    }

    /// The first message that is not done with; takes up to `take` more from librdkafka if there
    /// is none. Never waits.
    pub(super) fn first(&mut self, take: usize) -> Option<Message<'_>> {
        if self.next == self.taken.len() {
            self.take(take);
        }
        self.taken.get(self.next).map(|&message| Message {
            // SAFETY: messages in `taken` from `next` on are alive until `done` or `drop`, which
            // need `&mut self`.
            native: unsafe { &*message },
        })
    }

    /// Gives back the message that [`first`](Self::first) showed.
    pub(super) fn done(&mut self) {
        if let Some(&message) = self.taken.get(self.next) {
            self.next += 1;
            // SAFETY: the message came from librdkafka and is given back once: `next` has passed it.
            unsafe { sys::rd_kafka_message_destroy(message) };
        }
    }

    fn take(&mut self, most: usize) {
        let Some(queue) = &self.queue else { return };
        self.taken.clear();
        self.next = 0;
        self.taken.reserve(most);
        // SAFETY: the queue is alive, and there is room for `most` pointers.
        let count = unsafe {
            sys::rd_kafka_consume_batch_queue(
                queue.queue.as_ptr(),
                0,
                self.taken.as_mut_ptr(),
                most,
            )
        };
        let count = usize::try_from(count).unwrap_or(0);
        // SAFETY: librdkafka has written `count`, at most `most`, pointers.
        unsafe { self.taken.set_len(count) };
    }
}

impl<H: NativeHandle> Drop for PartitionQueue<H> {
    fn drop(&mut self) {
        while self.next < self.taken.len() {
            self.done();
        }
        if self.queue.is_some() {
            // SAFETY: the topic is alive and the partition was started. Waits for librdkafka's main
            // thread, which never blocks.
            unsafe { sys::rd_kafka_consume_stop(self.topic.as_ptr(), self.partition) };
            // What was fetched and not taken is outdated now: taking drops it, so that it does not
            // stay in memory until the client goes.
            self.take(1);
            while self.next < self.taken.len() {
                self.done();
            }
        }
        self.queue = None;
        // SAFETY: the reference that `start` got is given back here, once, before the client goes.
        unsafe { sys::rd_kafka_topic_destroy(self.topic.as_ptr()) };
    }
}

impl<H: NativeHandle> fmt::Debug for PartitionQueue<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionQueue")
            .field("partition", &self.partition)
            .finish_non_exhaustive()
    }
}

fn last_error() -> Code {
    // SAFETY: reads a value of this thread.
    unsafe { sys::rd_kafka_last_error() }.into()
}

/// A record, or an error in the place of one.
#[derive(Clone, Copy)]
pub(super) struct Message<'a> {
    native: &'a sys::rd_kafka_message_t,
}

impl<'a> Message<'a> {
    /// Why there is no record here.
    pub(super) fn error(self) -> Option<(Code, String)> {
        (self.native.err != NO_ERROR).then(|| {
            // SAFETY: the message is alive; the text is its own or a constant.
            let text = unsafe { text(sys::rd_kafka_message_errstr(self.native)) };
            (self.native.err.into(), text)
        })
    }

    /// Its number in the partition.
    pub(super) fn offset(self) -> i64 {
        self.native.offset
    }

    /// Milliseconds since the Unix epoch; -1 if it has none.
    pub(super) fn timestamp_ms(self) -> i64 {
        // SAFETY: the message is alive; the kind of time may be left out.
        unsafe { sys::rd_kafka_message_timestamp(self.native, ptr::null_mut()) }
    }

    /// Its key.
    pub(super) fn key(self) -> Option<&'a [u8]> {
        // SAFETY: librdkafka's pointer and length belong together and live as long as the message.
        unsafe { bytes(self.native.key, self.native.key_len) }
    }

    /// Its value.
    pub(super) fn value(self) -> Option<&'a [u8]> {
        // SAFETY: librdkafka's pointer and length belong together and live as long as the message.
        unsafe { bytes(self.native.payload, self.native.len) }
    }

    /// Its headers, in order.
    pub(super) fn headers(self) -> Headers<'a> {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is alive; the headers stay its own.
        let error = unsafe { sys::rd_kafka_message_headers(self.native, &raw mut headers) };
        if error != NO_ERROR {
            headers = ptr::null_mut();
        }
        Headers {
            headers,
            index: 0,
            _message: self,
        }
    }

    /// Bytes of key and value.
    pub(super) fn bytes(self) -> usize {
        self.native.key_len + self.native.len
    }
}

/// Headers of a message, in order.
#[derive(Clone)]
pub(super) struct Headers<'a> {
    headers: *mut sys::rd_kafka_headers_t,
    index: usize,
    _message: Message<'a>,
}

impl Headers<'_> {
    /// Bytes of their names and values.
    pub(super) fn bytes(self) -> usize {
        self.map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len))
            .sum()
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = HeaderRef<'a>;

    fn next(&mut self) -> Option<HeaderRef<'a>> {
        if self.headers.is_null() {
            return None;
        }
        let (mut name, mut value, mut len) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the headers live as long as the message; an index behind the last is an error.
        let error = unsafe {
            sys::rd_kafka_header_get_all(
                self.headers,
                self.index,
                &raw mut name,
                &raw mut value,
                &raw mut len,
            )
        };
        if error != NO_ERROR {
            return None;
        }
        self.index += 1;
        // SAFETY: name and value live as long as the message; the name ends in a zero.
        let (name, value) = unsafe { (CStr::from_ptr(name), bytes(value.cast_mut(), len)) };
        Some((name.to_str().unwrap_or("(a name that is not utf-8)"), value))
    }
}

/// Sends what was handed to a producer without waiting for more to go with it, and waits until nothing is under
/// way, or for as long as said. Somebody else must serve the producer's events meanwhile.
pub(super) fn flush(producer: &impl NativeHandle, timeout: Duration) {
    // SAFETY: the producer is alive. Whether it was in time, the reports tell.
    let _ = unsafe { sys::rd_kafka_flush(producer.native(), milliseconds(timeout)) };
}

/// Whether a record whose delivery failed may still have been written.
pub(super) fn perhaps_written(message: &BorrowedMessage<'_>) -> bool {
    // SAFETY: the message is alive as long as its borrow.
    let status = unsafe { sys::rd_kafka_message_status(message.ptr()) };
    status != sys::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED
}

/// The id under which the group knows a member; empty once it has left.
pub(super) fn member_id(client: &impl NativeHandle) -> String {
    // SAFETY: the client is alive; what it returns is ours to free, with its own function.
    unsafe {
        let id = sys::rd_kafka_memberid(client.native());
        if id.is_null() {
            return String::new();
        }
        let owned = text(id);
        sys::rd_kafka_mem_free(client.native(), id.cast());
        owned
    }
}

/// # Safety
/// `data` is null, or `len` bytes are there for `'a`.
unsafe fn bytes<'a>(data: *mut c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: by this function's own contract.
    (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) })
}

/// # Safety
/// `text` is null or ends in a zero.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by this function's own contract.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}
