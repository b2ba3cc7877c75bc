//! What the HTTP library that foldhost uses can do on this machine, with nothing behind it: the same answer to every
//! request. A process of its own, so that it is measured like those who look their answers up.

use std::convert::Infallible;
use std::io::Write as _;

use anyhow::Result;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;

/// Such as `plugins/count-and-last` gives.
const ANSWER: &str = "{\"count\":4}";
const TYPE: HeaderValue = HeaderValue::from_static("application/json");

/// Answers until its standard input ends or says something.
///
/// # Errors
/// If it cannot listen.
pub(crate) fn run() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?.to_string();
    runtime.spawn(serve(listener));
    println!("{}", json!({"event": "started", "address": address}));
    std::io::stdout().flush()?;
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        // As foldhost does; an answer on time is worth more than a full packet.
        let _ = stream.set_nodelay(true);
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
        // Whoever asked has gone away.
        tokio::spawn(async move { drop(connection.await) });
    }
}

async fn answer(_: Request<Incoming>) -> Result<Response<String>, Infallible> {
    let mut response = Response::new(ANSWER.to_owned());
    response.headers_mut().insert(CONTENT_TYPE, TYPE);
    Ok(response)
}
