//! Admin requests through any client: describing, creating, growing and deleting topics, and their
//! settings. They block; the topics module runs them where that is allowed.
//!
//! They go through the client that also asks for offsets, not through an admin client of its own:
//! one connection less, and its events (a token that must be renewed) are served already.

use std::ffi::{CString, c_char};
use std::ptr;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka_sys as sys;

use super::{NO_ERROR, NativeHandle, Queue, milliseconds, text};

/// An answer did not come, or was no.
pub(in super::super) type Refusal = (Code, String);

/// A topic as its brokers describe it.
#[derive(Debug)]
pub(in super::super) struct Described {
    pub(in super::super) name: String,
    /// All zeros on brokers that have no ids.
    pub(in super::super) id: [u8; 16],
    pub(in super::super) partitions: u32,
    /// Whether every partition has a leader.
    pub(in super::super) led: bool,
    /// Whether the brokers use it themselves.
    pub(in super::super) internal: bool,
}

/// One request: its options and the queue that its answer comes to.
struct Request {
    options: *mut sys::rd_kafka_AdminOptions_t,
    queue: Queue,
    timeout: Duration,
}

impl Request {
    fn new(
        client: &impl NativeHandle,
        operation: sys::rd_kafka_admin_op_t,
        timeout: Duration,
    ) -> Self {
        let mut why: [c_char; 256] = [0; 256];
        // SAFETY: the client is alive; options and queue are destroyed on drop; `why` is as long as
        // it says.
        unsafe {
            let options = sys::rd_kafka_AdminOptions_new(client.native(), operation);
            let queue = Queue::own(sys::rd_kafka_queue_new(client.native()))
                .expect("a new queue is never null");
            sys::rd_kafka_AdminOptions_set_request_timeout(
                options,
                milliseconds(timeout),
                why.as_mut_ptr(),
                why.len(),
            );
            Self {
                options,
                queue,
                timeout,
            }
        }
    }

    fn answer(&self) -> Result<Answer, Refusal> {
        // librdkafka answers by its own timeout; the margin only guards against waiting for ever.
        let wait = milliseconds(self.timeout + Duration::from_secs(1));
        // SAFETY: the queue is alive; the event is destroyed when `Answer` is dropped.
        let event = unsafe { sys::rd_kafka_queue_poll(self.queue.queue.as_ptr(), wait) };
        let event = ptr::NonNull::new(event)
            .ok_or_else(|| (Code::OperationTimedOut, "no answer".to_owned()))?;
        let answer = Answer(event);
        // SAFETY: the event is alive.
        let (code, why) = unsafe {
            (
                sys::rd_kafka_event_error(event.as_ptr()),
                text(sys::rd_kafka_event_error_string(event.as_ptr())),
            )
        };
        if code == NO_ERROR {
            Ok(answer)
        } else {
            Err((code.into(), why))
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once.
        unsafe { sys::rd_kafka_AdminOptions_destroy(self.options) };
    }
}

struct Answer(ptr::NonNull<sys::rd_kafka_event_t>);

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: the event belongs to us and is destroyed once.
        unsafe { sys::rd_kafka_event_destroy(self.0.as_ptr()) };
    }
}

/// Describes those of the named topics that exist. Never creates one.
pub(in super::super) fn describe_topics(
    client: &impl NativeHandle,
    names: &[&str],
    timeout: Duration,
) -> Result<Vec<Described>, Refusal> {
    use sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<CString> = names
        .iter()
        .map(|name| c_text(name))
        .collect::<Result<_, _>>()?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let request = Request::new(client, RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, timeout);
    // SAFETY: names, options and queue are alive during the calls, which copy what they keep.
    unsafe {
        let topics =
            sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        sys::rd_kafka_DescribeTopics(
            client.native(),
            topics,
            request.options,
            request.queue.queue.as_ptr(),
        );
        sys::rd_kafka_TopicCollection_destroy(topics);
    }
    let answer = request.answer()?;
    let mut described = Vec::with_capacity(names.len());
    // SAFETY: the answer is one of DescribeTopics, and alive while its parts are read.
    unsafe {
        let result = sys::rd_kafka_event_DescribeTopics_result(answer.0.as_ptr());
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        for index in 0..count {
            described.extend(describe_one(*topics.add(index))?);
        }
    }
    Ok(described)
}

/// # Safety
/// `topic` belongs to an answer that is alive.
unsafe fn describe_one(
    topic: *const sys::rd_kafka_TopicDescription_t,
) -> Result<Option<Described>, Refusal> {
    // SAFETY: by this function's own contract.
    unsafe {
        let error = sys::rd_kafka_TopicDescription_error(topic);
        let code: Code = sys::rd_kafka_error_code(error).into();
        match code {
            Code::NoError => {}
            Code::UnknownTopicOrPartition => return Ok(None),
            code => return Err((code, text(sys::rd_kafka_error_string(error)))),
        }
        let mut count = 0;
        let partitions = sys::rd_kafka_TopicDescription_partitions(topic, &raw mut count);
        let led = (0..count).all(|index| {
            let leader = sys::rd_kafka_TopicPartitionInfo_leader(*partitions.add(index));
            !leader.is_null() && sys::rd_kafka_Node_id(leader) >= 0
        });
        let uuid = sys::rd_kafka_TopicDescription_topic_id(topic);
        let mut id = [0; 16];
        if !uuid.is_null() {
            id[..8].copy_from_slice(&sys::rd_kafka_Uuid_most_significant_bits(uuid).to_be_bytes());
            id[8..].copy_from_slice(&sys::rd_kafka_Uuid_least_significant_bits(uuid).to_be_bytes());
        }
        Ok(Some(Described {
            name: text(sys::rd_kafka_TopicDescription_name(topic)),
            id,
            partitions: u32::try_from(count).unwrap_or(u32::MAX),
            led,
            internal: sys::rd_kafka_TopicDescription_is_internal(topic) != 0,
        }))
    }
}

/// Creates a topic; a `replication_factor` of -1 is the cluster's default.
pub(in super::super) fn create_topic(
    client: &impl NativeHandle,
    name: &str,
    partitions: i32,
    replication_factor: i32,
    config: &[(&str, &str)],
    timeout: Duration,
) -> Result<(), Refusal> {
    use sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATETOPICS;
    let topic = c_text(name)?;
    let config = config
        .iter()
        .map(|(key, value)| Ok((c_text(key)?, c_text(value)?)))
        .collect::<Result<Vec<_>, Refusal>>()?;
    let request = Request::new(client, RD_KAFKA_ADMIN_OP_CREATETOPICS, timeout);
    let mut why: [c_char; 512] = [0; 512];
    // SAFETY: all texts are alive during the calls, which copy them; `why` is as long as it says;
    // the new topic is destroyed once.
    unsafe {
        let mut new = sys::rd_kafka_NewTopic_new(
            topic.as_ptr(),
            partitions,
            replication_factor,
            why.as_mut_ptr(),
            why.len(),
        );
        if new.is_null() {
            return Err((Code::InvalidArgument, text(why.as_ptr())));
        }
        for (key, value) in &config {
            sys::rd_kafka_NewTopic_set_config(new, key.as_ptr(), value.as_ptr());
        }
        sys::rd_kafka_CreateTopics(
            client.native(),
            &raw mut new,
            1,
            request.options,
            request.queue.queue.as_ptr(),
        );
        sys::rd_kafka_NewTopic_destroy(new);
    }
    let answer = request.answer()?;
    // SAFETY: the answer is one of CreateTopics, and alive while its parts are read.
    unsafe {
        let result = sys::rd_kafka_event_CreateTopics_result(answer.0.as_ptr());
        let mut count = 0;
        let topics = sys::rd_kafka_CreateTopics_result_topics(result, &raw mut count);
        first_result(topics, count)
    }
}

/// Gives a topic more partitions, `partitions` in all.
pub(in super::super) fn create_partitions(
    client: &impl NativeHandle,
    name: &str,
    partitions: usize,
    timeout: Duration,
) -> Result<(), Refusal> {
    use sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATEPARTITIONS;
    let topic = c_text(name)?;
    let request = Request::new(client, RD_KAFKA_ADMIN_OP_CREATEPARTITIONS, timeout);
    let mut why: [c_char; 512] = [0; 512];
    // SAFETY: the name is alive during the calls, which copy it; `why` is as long as it says; the
    // new partitions are destroyed once.
    unsafe {
        let mut new = sys::rd_kafka_NewPartitions_new(
            topic.as_ptr(),
            partitions,
            why.as_mut_ptr(),
            why.len(),
        );
        if new.is_null() {
            return Err((Code::InvalidArgument, text(why.as_ptr())));
        }
        sys::rd_kafka_CreatePartitions(
            client.native(),
            &raw mut new,
            1,
            request.options,
            request.queue.queue.as_ptr(),
        );
        sys::rd_kafka_NewPartitions_destroy(new);
    }
    let answer = request.answer()?;
    // SAFETY: the answer is one of CreatePartitions, and alive while its parts are read.
    unsafe {
        let result = sys::rd_kafka_event_CreatePartitions_result(answer.0.as_ptr());
        let mut count = 0;
        let topics = sys::rd_kafka_CreatePartitions_result_topics(result, &raw mut count);
        first_result(topics, count)
    }
}

/// Deletes a topic.
pub(in super::super) fn delete_topic(
    client: &impl NativeHandle,
    name: &str,
    timeout: Duration,
) -> Result<(), Refusal> {
    use sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DELETETOPICS;
    let topic = c_text(name)?;
    let request = Request::new(client, RD_KAFKA_ADMIN_OP_DELETETOPICS, timeout);
    // SAFETY: the name is alive during the calls, which copy it; the request is destroyed once.
    unsafe {
        let mut deletion = sys::rd_kafka_DeleteTopic_new(topic.as_ptr());
        sys::rd_kafka_DeleteTopics(
            client.native(),
            &raw mut deletion,
            1,
            request.options,
            request.queue.queue.as_ptr(),
        );
        sys::rd_kafka_DeleteTopic_destroy(deletion);
    }
    let answer = request.answer()?;
    // SAFETY: the answer is one of DeleteTopics, and alive while its parts are read.
    unsafe {
        let result = sys::rd_kafka_event_DeleteTopics_result(answer.0.as_ptr());
        let mut count = 0;
        let topics = sys::rd_kafka_DeleteTopics_result_topics(result, &raw mut count);
        first_result(topics, count)
    }
}

/// One setting of a topic; `None` if the brokers do not tell it.
pub(in super::super) fn topic_setting(
    client: &impl NativeHandle,
    name: &str,
    setting: &str,
    timeout: Duration,
) -> Result<Option<String>, Refusal> {
    use sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS;
    let topic = c_text(name)?;
    let request = Request::new(client, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS, timeout);
    // SAFETY: the name is alive during the calls, which copy it; the resource is destroyed once.
    unsafe {
        let kind = sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
        let mut resource = sys::rd_kafka_ConfigResource_new(kind, topic.as_ptr());
        sys::rd_kafka_DescribeConfigs(
            client.native(),
            &raw mut resource,
            1,
            request.options,
            request.queue.queue.as_ptr(),
        );
        sys::rd_kafka_ConfigResource_destroy(resource);
    }
    let answer = request.answer()?;
    // SAFETY: the answer is one of DescribeConfigs, and alive while its parts are read.
    unsafe {
        let result = sys::rd_kafka_event_DescribeConfigs_result(answer.0.as_ptr());
        let mut count = 0;
        let resources = sys::rd_kafka_DescribeConfigs_result_resources(result, &raw mut count);
        if count == 0 {
            return Ok(None);
        }
        let resource = *resources;
        let code = sys::rd_kafka_ConfigResource_error(resource);
        if code != NO_ERROR {
            let why = text(sys::rd_kafka_ConfigResource_error_string(resource));
            return Err((code.into(), why));
        }
        let entries = sys::rd_kafka_ConfigResource_configs(resource, &raw mut count);
        for index in 0..count {
            let entry = *entries.add(index);
            if text(sys::rd_kafka_ConfigEntry_name(entry)) == setting {
                let value = sys::rd_kafka_ConfigEntry_value(entry);
                return Ok((!value.is_null()).then(|| text(value)));
            }
        }
    }
    Ok(None)
}

/// # Safety
/// `topics` are `count` results of an answer that is alive.
unsafe fn first_result(
    topics: *mut *const sys::rd_kafka_topic_result_t,
    count: usize,
) -> Result<(), Refusal> {
    if count == 0 {
        return Err((
            Code::Fail,
            "the brokers said nothing about the topic".to_owned(),
        ));
    }
    // SAFETY: by this function's own contract there is at least one.
    let (code, why) = unsafe {
        (
            sys::rd_kafka_topic_result_error(*topics),
            text(sys::rd_kafka_topic_result_error_string(*topics)),
        )
    };
    if code == NO_ERROR {
        Ok(())
    } else {
        Err((code.into(), why))
    }
}

fn c_text(text: &str) -> Result<CString, Refusal> {
    CString::new(text).map_err(|_| {
        (
            Code::InvalidArgument,
            format!("'{}' holds a zero byte", text.escape_debug()),
        )
    })
}
