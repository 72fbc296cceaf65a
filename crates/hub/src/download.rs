//! One file: from a part of it, or nothing, to a verified whole.
//!
//! `FILE.part` holds the first bytes, `FILE.part.etag` the tag of the server that sent them. Going on asks for
//! `Range: bytes=n-` with `If-Range: tag`; a server that has something else now answers 200 and the whole, and then the part
//! begins anew. Only a whole of the listed size and hash is renamed to `FILE`.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::HubError;
use crate::api::Entry;
use crate::hash::Hash;
use crate::http::{Answer, Failure, Http};
use crate::select::max_bytes;

/// Bytes received before they are written.
const BUFFER_BYTES: usize = 1 << 17;
/// Longest entity tag that is kept, in bytes.
const MAX_ETAG_BYTES: usize = 256;

/// What to fetch and where to put it.
pub(crate) struct Download<'a> {
    pub(crate) http: &'a Http,
    /// Below the endpoint.
    pub(crate) path: &'a str,
    pub(crate) place: &'a Path,
    pub(crate) entry: &'a Entry,
}

impl Download<'_> {
    /// Returns the bytes that came over the network. `report` gets bytes that are there and the attempt.
    pub(crate) fn run(&self, report: &mut dyn FnMut(u64, u32)) -> Result<u64, HubError> {
        let size = self.entry.expected.size;
        let max = max_bytes(&self.entry.path);
        if size > max {
            return Err(HubError::TooLarge { what: format!("bytes of {}", self.entry.path), got: size, max });
        }
        if self.is_there(report)? {
            return Ok(0);
        }
        let mut part = Part::open(self.place)?;
        if part.len > size {
            part.restart()?;
        }
        // What counts is how far the file got: a server that begins anew each time makes no progress.
        let (mut downloaded, mut in_vain, mut furthest) = (0, 0, part.len);
        while part.len < size {
            report(part.len, in_vain + 1);
            let outcome = self.attempt(&mut part, &mut downloaded, in_vain + 1, report);
            let (reason, wait) = match outcome {
                Ok(()) => continue,
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing { reason, wait }) => (reason, wait),
            };
            in_vain = if part.len > furthest { 1 } else { in_vain + 1 };
            furthest = furthest.max(part.len);
            self.http.pause(&self.http.url(self.path), in_vain, reason, wait)?;
        }
        self.finish(part, report)?;
        Ok(downloaded)
    }

    /// An earlier run's file, if it is what it must be; else it is removed.
    fn is_there(&self, report: &mut dyn FnMut(u64, u32)) -> Result<bool, HubError> {
        let Ok(metadata) = std::fs::metadata(self.place) else { return Ok(false) };
        let right = metadata.is_file()
            && metadata.len() == self.entry.expected.size
            && self.entry.expected.differs(self.place, &mut |done| report(done, 1))?.is_none();
        if !right {
            std::fs::remove_file(self.place).map_err(HubError::io(self.place))?;
        }
        Ok(right)
    }

    /// One request; what it brings is in the part, whether it ends well or not.
    fn attempt(
        &self,
        part: &mut Part,
        downloaded: &mut u64,
        attempt: u32,
        report: &mut dyn FnMut(u64, u32),
    ) -> Result<(), Failure> {
        let mut headers = Vec::new();
        if part.len > 0 {
            headers.push(("range", format!("bytes={}-", part.len)));
            headers.extend(part.etag().map(|etag| ("if-range", etag)));
        }
        let mut answer = self.http.get(&self.http.url(self.path), &headers)?;
        self.check(&answer)?;
        match answer.status {
            416 => {
                part.restart()?;
                return Err(Failure::passing("status 416: the server has no such range"));
            }
            206 => self.check_range(&answer, part.len)?,
            _ => {
                part.restart()?;
                self.check_size(answer.header("content-length").and_then(|len| len.parse().ok()))?;
            }
        }
        part.keep_etag(answer.header("etag"))?;
        let mut body = answer.body.as_reader();
        let mut buffer = vec![0u8; BUFFER_BYTES];
        loop {
            let n = match body.read(&mut buffer) {
                Ok(0) if part.len < self.entry.expected.size => {
                    let (got, expected) = (part.len, self.entry.expected.size);
                    return Err(Failure::passing(format!("ended after {got} of {expected} bytes")));
                }
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(error) => return Err(Failure::passing(error.to_string())),
            };
            let len = part.len + n as u64;
            if len > self.entry.expected.size {
                part.restart()?;
                self.check_size(Some(len))?;
            }
            part.write(&buffer[..n])?;
            *downloaded += n as u64;
            report(part.len, attempt);
        }
    }

    /// What the hub says of a large file when it redirects must be what it listed.
    fn check(&self, answer: &Answer) -> Result<(), HubError> {
        let size = answer.linked("x-linked-size").and_then(|size| size.parse().ok());
        self.check_size(size)?;
        let etag = answer.linked("x-linked-etag").map(|etag| etag.trim_matches('"'));
        match (&self.entry.expected.hash, etag) {
            (Hash::Sha256(expected), Some(got)) if got.len() == expected.len() && got != expected => {
                let reason = format!("X-Linked-Etag is {got:?}, the listing says {expected:?}");
                Err(HubError::Answer { url: answer.url.clone(), reason })
            }
            _ => Ok(()),
        }
    }

    fn check_size(&self, got: Option<u64>) -> Result<(), HubError> {
        match got {
            Some(got) if got != self.entry.expected.size => Err(HubError::Size {
                file: self.entry.path.to_string(),
                got,
                expected: self.entry.expected.size,
            }),
            _ => Ok(()),
        }
    }

    /// `Content-Range: bytes START-END/TOTAL` must continue the part.
    fn check_range(&self, answer: &Answer, start: u64) -> Result<(), HubError> {
        let header = answer.header("content-range").unwrap_or("");
        let parse = || {
            let (range, total) = header.strip_prefix("bytes ")?.split_once('/')?;
            let (start, end) = range.split_once('-')?;
            Some((start.parse::<u64>().ok()?, end.parse::<u64>().ok()?, total))
        };
        let Some((got_start, end, total)) = parse() else {
            let reason = format!("Content-Range: got {header:?}, expected bytes START-END/TOTAL");
            return Err(HubError::Answer { url: answer.url.clone(), reason });
        };
        self.check_size(total.parse().ok())?;
        if got_start != start || end < start || end >= self.entry.expected.size {
            let reason = format!("Content-Range: got {header:?}, expected a range from {start} on");
            return Err(HubError::Answer { url: answer.url.clone(), reason });
        }
        Ok(())
    }

    /// Verifies and renames.
    fn finish(&self, part: Part, report: &mut dyn FnMut(u64, u32)) -> Result<(), HubError> {
        let differs = self.entry.expected.differs(&part.path, &mut |_| report(part.len, 1))?;
        if let Some(got) = differs {
            let (kind, expected) = (self.entry.expected.hash.kind(), self.entry.expected.hash.hex().into());
            part.remove()?;
            return Err(HubError::Hash { file: self.entry.path.to_string(), kind, got, expected });
        }
        part.rename(self.place)
    }
}

/// The beginning of a file; locked while it is open, so that two processes do not write it.
struct Part {
    path: PathBuf,
    etag_path: PathBuf,
    file: File,
    len: u64,
}

impl Part {
    fn open(place: &Path) -> Result<Self, HubError> {
        let beside = |end: &str| {
            let mut name = place.file_name().unwrap_or_default().to_owned();
            name.push(end);
            place.with_file_name(name)
        };
        let (path, etag_path) = (beside(".part"), beside(".part.etag"));
        let locked = path.clone();
        let io = HubError::io(&locked);
        if let Some(folder) = place.parent() {
            std::fs::create_dir_all(folder).map_err(HubError::io(folder))?;
        }
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.map_err(&io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(HubError::Busy { path }),
            // A file system without locks: the hash still decides.
            Err(TryLockError::Error(_)) => {}
        }
        let len = file.seek(SeekFrom::End(0)).map_err(&io)?;
        Ok(Self { path, etag_path, file, len })
    }

    fn restart(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).map_err(HubError::io(&self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(HubError::io(&self.path))?;
        self.len = 0;
        self.forget_etag()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(HubError::io(&self.path))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Only a strong tag promises the same bytes (RFC 9110, 13.1.5).
    fn etag(&self) -> Option<String> {
        let etag = std::fs::read_to_string(&self.etag_path).ok()?;
        Some(etag).filter(|etag| is_strong(etag))
    }

    fn keep_etag(&self, etag: Option<&str>) -> Result<(), HubError> {
        match etag.filter(|etag| is_strong(etag)) {
            Some(etag) => std::fs::write(&self.etag_path, etag).map_err(HubError::io(&self.etag_path)),
            None => self.forget_etag(),
        }
    }

    fn forget_etag(&self) -> Result<(), HubError> {
        match std::fs::remove_file(&self.etag_path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(HubError::io(&self.etag_path)(error))
            }
            _ => Ok(()),
        }
    }

    fn remove(self) -> Result<(), HubError> {
        self.forget_etag()?;
        let path = self.path.clone();
        drop(self);
        std::fs::remove_file(&path).map_err(HubError::io(&path))
    }

    fn rename(self, place: &Path) -> Result<(), HubError> {
        self.file.sync_all().map_err(HubError::io(&self.path))?;
        self.forget_etag()?;
        let path = self.path.clone();
        drop(self);
        std::fs::rename(&path, place).map_err(HubError::io(place))
    }
}

fn is_strong(etag: &str) -> bool {
    etag.len() <= MAX_ETAG_BYTES
        && etag.len() > 2
        && etag.starts_with('"')
        && etag.ends_with('"')
        && etag.bytes().all(|byte| byte.is_ascii_graphic())
}
