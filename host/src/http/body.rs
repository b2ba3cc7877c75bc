//! Request bodies, bounded: in size, in time, and in what all of them take together. Called by the
//! handlers that take one, after the caller was authorised.
//!
//! Invariant: a body that is larger than its bound is never held. What a refused request left unread
//! is read on and thrown away ([`drain`](super::drain)), so that the client gets to see the refusal
//! instead of a broken connection.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use tokio::sync::OwnedSemaphorePermit;

use super::context::{App, BODY_UNIT_BYTES};
use crate::error::{Code, Problem};
use crate::limits;

/// A whole body, with the room that it takes.
#[derive(Debug)]
pub(super) struct HeldBody {
    /// The body.
    pub(super) bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

/// Reads a body of at most `bytes_max` bytes; `what` names it in the refusal.
///
/// # Errors
/// [`Code::TooLarge`]; [`Code::BadRequest`] for one that breaks off or takes too long.
pub(super) async fn read(
    app: &App,
    body: Body,
    bytes_max: usize,
    what: &str,
) -> Result<HeldBody, Problem> {
    let declared = body.size_hint().exact();
    let declared = declared.and_then(|bytes| usize::try_from(bytes).ok());
    if declared == Some(0) {
        return Ok(HeldBody {
            bytes: Bytes::new(),
            _room: None,
        });
    }
    if declared.is_some_and(|bytes| bytes > bytes_max) {
        return Err(too_large(bytes_max, what));
    }
    let reading = async {
        let units = declared.unwrap_or(bytes_max).div_ceil(BODY_UNIT_BYTES);
        let units = u32::try_from(units).expect("bounds of bodies are below 4 TiB");
        let room = app.bodies.clone().acquire_many_owned(units).await;
        let room = room.expect("the budget is never closed");
        let bytes = collect(body, declared.unwrap_or(0), bytes_max, what).await?;
        Ok(HeldBody {
            bytes,
            _room: Some(room),
        })
    };
    within(limits::REQUEST_BODY_MAX, app.unless_stopped(reading)).await??
}

async fn within<T>(bound: Duration, reading: impl Future<Output = T>) -> Result<T, Problem> {
    tokio::time::timeout(bound, reading).await.map_err(|_| {
        Problem::new(
            Code::BadRequest,
            format!(
                "the body did not arrive within {} s: send it again, in parts",
                bound.as_secs()
            ),
        )
    })
}

async fn collect(
    body: Body,
    bytes_expected: usize,
    bytes_max: usize,
    what: &str,
) -> Result<Bytes, Problem> {
    let mut body = pin!(body);
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    loop {
        let chunk = match next(body.as_mut()).await {
            None => break,
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => {
                return Err(Problem::new(
                    Code::BadRequest,
                    format!("the body broke off: {error}; nothing was done"),
                ));
            }
        };
        let held = first.as_ref().map_or(all.len(), Bytes::len);
        if held + chunk.len() > bytes_max {
            return Err(too_large(bytes_max, what));
        }
        // Most bodies come in one piece, which is then not copied.
        match first.take() {
            None if all.is_empty() => first = Some(chunk),
            None => all.extend_from_slice(&chunk),
            Some(start) => {
                all.reserve(bytes_expected.max(start.len() + chunk.len()));
                all.extend_from_slice(&start);
                all.extend_from_slice(&chunk);
            }
        }
    }
    Ok(first.unwrap_or_else(|| all.freeze()))
}

/// The next data of a body; trailers are skipped.
pub(super) async fn next(mut body: Pin<&mut Body>) -> Option<Result<Bytes, axum::Error>> {
    loop {
        match poll_fn(|cx| body.as_mut().poll_frame(cx)).await? {
            Err(error) => return Some(Err(error)),
            Ok(frame) => {
                if let Ok(data) = frame.into_data() {
                    return Some(Ok(data));
                }
            }
        }
    }
}

fn too_large(bytes_max: usize, what: &str) -> Problem {
    Problem::new(
        Code::TooLarge,
        format!("{what} has more than {bytes_max} bytes: send less at a time; nothing was done"),
    )
    .with("bytes_max", bytes_max)
}

/// The media type of a body, in lower case and without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(
        value
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase(),
    )
}

/// The content type is not taken here.
pub(super) fn unsupported(given: Option<&str>, wanted: &str) -> Problem {
    let given = given.map_or("without a content type".to_owned(), |given| {
        format!("of type {given}")
    });
    Problem::new(
        Code::UnsupportedMediaType,
        format!("a body {given} is not taken here: send it with 'Content-Type: {wanted}'"),
    )
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn chunks(sizes: &[usize]) -> Body {
        let chunks: Vec<_> = sizes
            .iter()
            .map(|size| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; *size])))
            .collect();
        Body::from_stream(stream::iter(chunks))
    }

    #[tokio::test]
    async fn a_body_is_collected_up_to_its_bound() {
        for sizes in [&[][..], &[7], &[3, 4, 0, 1]] {
            let all = collect(chunks(sizes), 0, 10, "it").await.unwrap();
            assert_eq!(all.len(), sizes.iter().sum::<usize>());
        }
        let problem = collect(chunks(&[5, 5, 1, 100]), 0, 10, "the append")
            .await
            .unwrap_err();
        assert_eq!(problem.code, Code::TooLarge);
        assert!(
            problem
                .detail
                .starts_with("the append has more than 10 bytes")
        );
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_refused() {
        let broken = stream::iter([
            Ok(Bytes::from_static(b"x")),
            Err(std::io::Error::other("gone")),
        ]);
        let problem = collect(Body::from_stream(broken), 0, 10, "it")
            .await
            .unwrap_err();
        assert_eq!(problem.code, Code::BadRequest);
    }

    #[test]
    fn media_types_lose_their_parameters() {
        let headers = HeaderMap::from_iter([(
            header::CONTENT_TYPE,
            "Application/JSON; charset=utf-8".parse().unwrap(),
        )]);
        assert_eq!(media_type(&headers).as_deref(), Some("application/json"));
    }
}
