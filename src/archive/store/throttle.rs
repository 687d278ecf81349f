//! What goes out to a bucket, held back to a rate: the bodies of requests leave in small pieces, each in its time.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
        HttpResponse, HttpResponseBody, HttpService, ReqwestConnector,
    },
};
use tokio::time::Instant;

/// What may be made up for after a pause, and after being late.
const BURST: Duration = Duration::from_millis(50);
/// How many pieces a second's bytes leave in, and how large they are at least and at most.
const PIECES: u64 = 50;
const PIECE: (u64, u64) = (4 << 10, 256 << 10);

/// A token bucket. Pure: times are since any moment that stays the same.
#[derive(Debug)]
struct Bucket {
    bytes_per_second: u64,
    /// When everything that was let go will have left.
    free: Duration,
}

impl Bucket {
    /// Lets `bytes` go, in the order in which they ask; returns how long they must wait at `now`.
    fn take(&mut self, now: Duration, bytes: u64) -> Duration {
        let begin = self.free.max(now.saturating_sub(BURST));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.max(1));
        let lasts = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.free = begin.saturating_add(lasts);
        begin.saturating_sub(now)
    }
}

/// The rate of one archive, shared by all its requests.
#[derive(Debug)]
struct Pace {
    bucket: Mutex<Bucket>,
    since: Instant,
    piece: usize,
}

impl Pace {
    fn new(bytes_per_second: u64) -> Self {
        let (least, most) = PIECE;
        let piece = (bytes_per_second / PIECES).clamp(least, most);
        Self {
            bucket: Mutex::new(Bucket {
                bytes_per_second,
                free: Duration::ZERO,
            }),
            since: Instant::now(),
            piece: usize::try_from(piece).unwrap_or(usize::MAX),
        }
    }

    /// Returns when so many bytes may leave.
    async fn wait(&self, bytes: usize) {
        let wait = {
            let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.take(self.since.elapsed(), bytes as u64)
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

/// Makes clients that keep to one rate together.
#[derive(Clone, Debug)]
pub(super) struct Throttle {
    pace: Arc<Pace>,
    uploads: reqwest::Client,
}

impl Throttle {
    /// `uploads` sends what has a body; it must trust whom the other client trusts.
    pub(super) fn new(bytes_per_second: u64, uploads: reqwest::Client) -> Self {
        Self {
            pace: Arc::new(Pace::new(bytes_per_second)),
            uploads,
        }
    }
}

impl HttpConnector for Throttle {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Throttled {
            throttle: self.clone(),
            others: ReqwestConnector::default().connect(options)?,
        }))
    }
}

#[derive(Debug)]
struct Throttled {
    throttle: Throttle,
    /// Sends requests without a body.
    others: HttpClient,
}

#[async_trait]
impl HttpService for Throttled {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if request.body().content_length() == 0 {
            return self.others.execute(request).await;
        }
        let (mut parts, body) = request.into_parts();
        // What is paced has no length of its own, and stores refuse what does not say how long it is.
        let length = body.content_length();
        let headers = &mut parts.headers;
        headers
            .entry(CONTENT_LENGTH)
            .or_insert_with(|| length.into());
        let body = paced(body, self.throttle.pace.clone());
        let request = http::Request::from_parts(parts, body);
        let request = reqwest::Request::try_from(request).map_err(failed)?;
        let answer = self.throttle.uploads.execute(request).await;
        let answer: http::Response<reqwest::Body> = answer.map_err(failed)?.into();
        let (parts, body) = answer.into_parts();
        let body = HttpResponseBody::new(body.map_err(failed));
        Ok(HttpResponse::from_parts(parts, body))
    }
}

/// A body that leaves in pieces, each when it may.
fn paced(body: HttpRequestBody, pace: Arc<Pace>) -> reqwest::Body {
    let state = (body.into_data_stream(), Bytes::new(), pace);
    let pieces = stream::unfold(state, |(mut rest, mut bytes, pace)| async move {
        while bytes.is_empty() {
            match rest.next().await? {
                Ok(more) => bytes = more,
                Err(error) => return Some((Err(error), (rest, bytes, pace))),
            }
        }
        let piece = bytes.split_to(bytes.len().min(pace.piece));
        pace.wait(piece.len()).await;
        Some((Ok(piece), (rest, bytes, pace)))
    });
    reqwest::Body::wrap_stream(pieces)
}

/// As `object_store` tells errors of its own client apart. The URL may hold a signature.
fn failed(error: reqwest::Error) -> HttpError {
    let kind = if error.is_timeout() {
        HttpErrorKind::Timeout
    } else if error.is_connect() {
        HttpErrorKind::Connect
    } else if error.is_decode() {
        HttpErrorKind::Decode
    } else {
        HttpErrorKind::Request
    };
    HttpError::new(kind, error.without_url())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    proptest! {
        /// Whoever waits as told never sends more than the rate and one burst allow, nor less while there is something to send.
        #[test]
        fn the_rate_is_kept(rate in 65_536u64..1 << 30, asked in prop::collection::vec((1u64..1 << 18, 0u64..20_000), 1..300)) {
            let mut bucket = Bucket { bytes_per_second: rate, free: Duration::ZERO };
            let (mut now, mut sent, mut idle) = (Duration::from_secs(1), 0u64, Duration::ZERO);
            let begin = now;
            for (bytes, late) in asked {
                let late = Duration::from_micros(late);
                now += bucket.take(now, bytes);
                let allowed = (now - begin + BURST).as_secs_f64() * rate as f64;
                // Each wait is cut to whole nanoseconds.
                prop_assert!(sent as f64 <= allowed + 400.0, "{sent} of {allowed}");
                sent += bytes;
                now += late;
                idle += late;
            }
            let least = (now - begin).saturating_sub(idle).as_secs_f64() * rate as f64;
            prop_assert!(sent as f64 + 400.0 >= least, "{sent} of {least}");
        }
    }

    #[test]
    fn a_little_lateness_is_made_up_for_and_a_long_pause_is_not() {
        let second = Duration::from_secs(1);
        let mut bucket = Bucket {
            bytes_per_second: 1000,
            free: Duration::ZERO,
        };
        assert_eq!(bucket.take(10 * second, 1000), Duration::ZERO);
        // What was let go lasts until 10.95 s.
        assert_eq!(bucket.take(10 * second, 1000), Duration::from_millis(950));
        let late = 11 * second + Duration::from_millis(960);
        assert_eq!(bucket.take(late, 1000), Duration::ZERO);
        assert_eq!(bucket.take(late, 1000), Duration::from_millis(990));
        assert_eq!(bucket.take(100 * second, 50), Duration::ZERO);
        assert_eq!(bucket.take(100 * second, 50), Duration::ZERO);
        assert!(bucket.take(100 * second, 50) > Duration::ZERO);
    }

    /// What a client sends up to the end of its header, answered with "no content".
    async fn header_of_one_request(listener: tokio::net::TcpListener) -> String {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut text = Vec::new();
        while !text.windows(4).any(|window| window == b"\r\n\r\n") {
            assert!(client.read_buf(&mut text).await.unwrap() > 0);
        }
        let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
        client.write_all(answer).await.unwrap();
        String::from_utf8_lossy(&text).to_lowercase()
    }

    #[tokio::test]
    async fn a_body_that_is_held_back_says_how_long_it_is() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/?delete", listener.local_addr().unwrap());
        let header = tokio::spawn(header_of_one_request(listener));
        let throttle = Throttle::new(1 << 20, reqwest::Client::new());
        let client = throttle.connect(&ClientOptions::new()).unwrap();
        // As a request that deletes several objects: nobody else says it.
        let request = http::Request::post(uri).body(HttpRequestBody::from("<Delete/>".to_owned()));
        let answer = client.execute(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), 204);
        let header = header.await.unwrap();
        assert!(header.contains("content-length: 9\r\n"), "{header}");
        assert!(!header.contains("transfer-encoding"), "{header}");
    }
}
