//! The page that Prometheus reads: `GET /metrics`, one request for each connection, over plain HTTP/1.1. It shows a text
//! that somebody else makes, and nothing else can be had here. It authenticates nobody: where it may listen is decided by
//! the node's configuration.
//!
//! INVARIANT: at most [`READERS_MAX`] connections are held at a time, each for [`READER_TIME`] and [`HEAD_BYTES_MAX`].

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Connections at a time; more are closed at once.
const READERS_MAX: usize = 8;
/// Longest that one of them may take.
const READER_TIME: Duration = Duration::from_secs(5);
/// Longest request, bytes.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// Pause after an accept that failed, so that a lack of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Makes the text.
pub type Render = Arc<dyn Fn() -> String + Send + Sync>;

/// Answers until it is cancelled.
pub async fn serve(listener: TcpListener, render: Render, closing: CancellationToken) {
    let places = Arc::new(Semaphore::new(READERS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closing.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let (render, closing) = (render.clone(), closing.clone());
        tokio::spawn(async move {
            // A reader that is too slow or has gone is let go.
            let _ = closing.run_until_cancelled(timeout(READER_TIME, answer(stream, render))).await;
            drop(place);
        });
    }
}

async fn answer(mut stream: TcpStream, render: Render) -> std::io::Result<()> {
    let mut head = Vec::new();
    let ended = |head: &[u8]| head.windows(4).any(|four| four == b"\r\n\r\n");
    while !ended(&head) && head.len() < HEAD_BYTES_MAX {
        let mut more = [0; 1024];
        match stream.read(&mut more).await? {
            0 => return Ok(()),
            read => head.extend_from_slice(&more[..read]),
        }
    }
    let reply = if ended(&head) { reply(&head, &render) } else { refusal("431 Request Header Fields Too Large") };
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await
}

fn reply(head: &[u8], render: &Render) -> String {
    let line = head.split(|byte| *byte == b'\r').next().and_then(|line| std::str::from_utf8(line).ok());
    let words: Vec<&str> = line.map(|line| line.split(' ').collect()).unwrap_or_default();
    let [method, target, version] = words[..] else { return refusal("400 Bad Request") };
    if !version.starts_with("HTTP/1.") {
        return refusal("400 Bad Request");
    }
    match (method, target.split('?').next()) {
        ("GET", Some("/metrics")) => with_body("200 OK", "text/plain; version=0.0.4; charset=utf-8", &render()),
        (_, Some("/metrics")) => refusal("405 Method Not Allowed"),
        _ => refusal("404 Not Found"),
    }
}

fn refusal(status: &str) -> String {
    with_body(status, "text/plain; charset=utf-8", &format!("{status}\n"))
}

fn with_body(status: &str, kind: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nallow: GET\r\nconnection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::SocketAddr;

    use super::*;

    async fn open() -> (SocketAddr, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, closing) = (listener.local_addr().unwrap(), CancellationToken::new());
        tokio::spawn(serve(listener, Arc::new(|| "greylag_x 1\n".to_owned()), closing.clone()));
        (address, closing)
    }

    /// What comes back until the other side closes.
    async fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut reply = Vec::new();
        // What was sent and not read may end the connection with a reset, after the reply.
        let _ = stream.read_to_end(&mut reply).await;
        String::from_utf8(reply).unwrap()
    }

    #[tokio::test]
    async fn the_page_is_there_and_nothing_else_is() {
        let (address, _closing) = open().await;
        let cases: [(&[u8], &str); 7] = [
            (b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n"),
            (b"GET /metrics?a=b HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\n"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 "),
            (b"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 "),
            (b"GET /metrics/../x HTTP/1.1\r\n\r\n", "HTTP/1.1 404 "),
            (b"GET /metrics\r\n\r\n", "HTTP/1.1 400 "),
            (b"\xff\xfe \r\n\r\n", "HTTP/1.1 400 "),
        ];
        for (request, begins) in cases {
            let reply = ask(address, request).await;
            assert!(reply.starts_with(begins), "{reply}");
            assert_eq!(begins.contains("200"), reply.ends_with("\r\n\r\ngreylag_x 1\n"), "{reply}");
        }
        let long = [b"GET /metrics HTTP/1.1\r\nx: ".as_slice(), &[b'x'; HEAD_BYTES_MAX]].concat();
        assert!(ask(address, &long).await.starts_with("HTTP/1.1 431 "));
    }

    #[tokio::test]
    async fn readers_that_say_nothing_take_a_bounded_number_of_places_and_end_with_the_page() {
        let (address, closing) = open().await;
        let mut silent = Vec::new();
        for _ in 0..READERS_MAX {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        assert_eq!(ask(address, b"GET /metrics HTTP/1.1\r\n\r\n").await, "", "there is no place");
        // One goes, and gives its place to whoever comes.
        drop(silent.pop());
        while ask(address, b"GET /metrics HTTP/1.1\r\n\r\n").await.is_empty() {}
        closing.cancel();
        for mut stream in silent {
            let mut nothing = Vec::new();
            assert_eq!(stream.read_to_end(&mut nothing).await.unwrap_or_default(), 0);
        }
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
