//! A simulated registry: the test decides the answer to each request.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    /// The path and the query.
    pub path: String,
    /// The `Authorization` header, if there is one.
    pub authorization: Option<String>,
}

/// An answer.
#[derive(Default)]
pub struct Reply {
    /// The HTTP status code.
    pub status: u16,
    /// Names and values.
    pub headers: Vec<(&'static str, String)>,
    /// The whole body, or the part to repeat.
    pub body: Vec<u8>,
    /// Whether the body never ends.
    pub endless: bool,
}

impl Reply {
    /// An answer with an end.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    /// An endless answer.
    pub fn endless(status: u16) -> Self {
        Self {
            endless: true,
            ..Self::new(status, vec![b' '; 64 << 10])
        }
    }

    /// The same answer with another header.
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// A registry on this machine without TLS, with answers from the test. Its threads end with the
/// test.
pub struct Played {
    address: String,
    seen: Arc<Mutex<Vec<Request>>>,
    sent: Arc<AtomicU64>,
}

impl Played {
    /// Starts one.
    pub fn start(answer: impl Fn(&Request, &str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let (seen, sent) = (Arc::default(), Arc::default());
        let played = Self {
            address: address.clone(),
            seen: Arc::clone(&seen),
            sent: Arc::clone(&sent),
        };
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, seen, sent) = (answer.clone(), seen.clone(), sent.clone());
                let address = address.clone();
                thread::spawn(move || {
                    // A client may disconnect at any time.
                    let _ = serve(&stream, &seen, &sent, |request| answer(request, &address));
                });
            }
        });
        played
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Request> {
        let seen = self.seen.lock();
        seen.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number of bytes of bodies that were sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

fn serve(
    stream: &TcpStream,
    seen: &Mutex<Vec<Request>>,
    sent: &AtomicU64,
    answer: impl Fn(&Request) -> Reply,
) -> std::io::Result<()> {
    // A TLS client, which is tried first, begins with another byte (RFC 8446, section 5.1).
    let mut byte = [0];
    if stream.peek(&mut byte)? == 0 || byte != *b"G" {
        return Ok(());
    }
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut request = Request {
        path: first.split(' ').nth(1).unwrap_or_default().to_owned(),
        authorization: None,
    };
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("authorization")
        {
            request.authorization = Some(value.to_owned());
        }
    }
    let mut all = seen.lock().unwrap_or_else(PoisonError::into_inner);
    all.push(request.clone());
    drop(all);
    let reply = answer(&request);
    let mut out = stream;
    write!(
        out,
        "HTTP/1.1 {} Played\r\nConnection: close\r\n",
        reply.status
    )?;
    for (name, value) in &reply.headers {
        write!(out, "{name}: {value}\r\n")?;
    }
    if !reply.endless {
        write!(out, "Content-Length: {}\r\n", reply.body.len())?;
    }
    out.write_all(b"\r\n")?;
    loop {
        out.write_all(&reply.body)?;
        sent.fetch_add(reply.body.len() as u64, Ordering::Relaxed);
        if !reply.endless {
            return Ok(());
        }
    }
}
