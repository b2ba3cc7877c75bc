//! Handing records to a producer from where they lie: the topic is looked up once, and nothing is copied on the way
//! to librdkafka's own copy.

use std::ffi::{CString, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka_sys as sys;
use rdkafka_sys::rd_kafka_vtype_t as Part;

use super::{NO_ERROR, NativeHandle, last_error};
use crate::log::RecordRef;
use crate::types::Partition;

/// A topic that a producer writes to.
pub(in crate::log::kafka) struct ProducerTopic<H: NativeHandle> {
    topic: ptr::NonNull<sys::rd_kafka_topic_t>,
    producer: Arc<H>,
}

// SAFETY: librdkafka's topics may be used from any thread.
unsafe impl<H: NativeHandle> Send for ProducerTopic<H> {}
// SAFETY: as above.
unsafe impl<H: NativeHandle> Sync for ProducerTopic<H> {}

impl<H: NativeHandle> ProducerTopic<H> {
    /// Looks the topic up; whether there is one shows when it is written to.
    pub(in crate::log::kafka) fn new(producer: Arc<H>, name: &str) -> Result<Self, Code> {
        let name = CString::new(name).map_err(|_| Code::InvalidTopic)?;
        // SAFETY: producer and name are alive; a null configuration means the default one.
        let topic =
            unsafe { sys::rd_kafka_topic_new(producer.native(), name.as_ptr(), ptr::null_mut()) };
        let topic = ptr::NonNull::new(topic).ok_or_else(last_error)?;
        Ok(Self { topic, producer })
    }

    /// Hands over a copy of a record, and `number` to be reported with it. Blocks while the producer's queue is
    /// full: until records are delivered, or time out.
    pub(in crate::log::kafka) fn produce(
        &self,
        partition: Partition,
        record: &RecordRef<'_>,
        number: usize,
    ) -> Result<(), Code> {
        let partition = c_int::try_from(partition.0).map_err(|_| Code::UnknownPartition)?;
        let (key, key_bytes) = memory(record.key);
        let (value, value_bytes) = memory(record.value);
        let headers = Headers::of(record);
        // SAFETY: producer and topic are alive, and each part has the type that its tag says. Key and value are
        // copied; the headers are librdkafka's from here on, unless it refuses.
        let refused = unsafe {
            sys::rd_kafka_producev(
                self.producer.native(),
                Part::RD_KAFKA_VTYPE_RKT,
                self.topic.as_ptr(),
                Part::RD_KAFKA_VTYPE_PARTITION,
                partition,
                Part::RD_KAFKA_VTYPE_MSGFLAGS,
                sys::RD_KAFKA_MSG_F_COPY | sys::RD_KAFKA_MSG_F_BLOCK,
                Part::RD_KAFKA_VTYPE_VALUE,
                value,
                value_bytes,
                Part::RD_KAFKA_VTYPE_KEY,
                key,
                key_bytes,
                Part::RD_KAFKA_VTYPE_OPAQUE,
                number as *mut c_void,
                Part::RD_KAFKA_VTYPE_TIMESTAMP,
                record.timestamp_ms,
                Part::RD_KAFKA_VTYPE_HEADERS,
                headers.0,
                Part::RD_KAFKA_VTYPE_END,
            )
        };
        if refused != NO_ERROR {
            return Err(refused.into());
        }
        std::mem::forget(headers);
        Ok(())
    }
}

impl<H: NativeHandle> Drop for ProducerTopic<H> {
    fn drop(&mut self) {
        // SAFETY: the reference is ours, and given back once; the producer is dropped after it.
        unsafe { sys::rd_kafka_topic_destroy(self.topic.as_ptr()) };
    }
}

fn memory(bytes: Option<&[u8]>) -> (*mut c_void, usize) {
    match bytes {
        // An empty slice has an address, too: it is not an absent one.
        Some(bytes) => (bytes.as_ptr().cast_mut().cast(), bytes.len()),
        None => (ptr::null_mut(), 0),
    }
}

/// Headers that belong to nobody else yet; null where a record has none.
struct Headers(*mut sys::rd_kafka_headers_t);

impl Headers {
    fn of(record: &RecordRef<'_>) -> Self {
        let headers = record.headers();
        if headers.len() == 0 {
            return Self(ptr::null_mut());
        }
        // SAFETY: names and values are alive, as long as they say, and copied.
        unsafe {
            let native = sys::rd_kafka_headers_new(headers.len());
            for (name, value) in headers {
                let (value, value_bytes) = memory(value);
                let added = sys::rd_kafka_header_add(
                    native,
                    name.as_ptr().cast(),
                    name.len().cast_signed(),
                    value,
                    value_bytes.cast_signed(),
                );
                debug_assert_eq!(added, NO_ERROR, "only a list that is read-only refuses one");
            }
            Self(native)
        }
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: it was not given away.
            unsafe { sys::rd_kafka_headers_destroy(self.0) };
        }
    }
}
