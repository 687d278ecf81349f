//! The walk along the chain of records.

use super::{
    Carry, Invalid, RestorePoint, Resume, ScanEnd, ScanError, SegmentScan,
    assembly::Assembly,
    page::{PAGE, PageHeader, SegmentHeader, u32_at},
    record::{Content, Record, may_begin_timeline},
};
use crate::postgres::{Lsn, SegmentName, SegmentSize, SystemIdentifier, TimelineId};

/// Records begin at multiples of this (`MAXALIGN`).
const ALIGNMENT: usize = 8;

/// Why the walk stops.
enum Stop {
    /// The given bytes end; an open record goes on in what follows.
    Data(Option<Assembly>),
    Switch,
    Invalid(Invalid),
}

/// Who is shown each record.
pub(super) type Seen<'a> = Option<&'a mut (dyn FnMut(&Record) + 'a)>;

impl From<Invalid> for Stop {
    fn from(why: Invalid) -> Self {
        Self::Invalid(why)
    }
}

struct Scanner<'a> {
    /// The segment from `base` on.
    bytes: &'a [u8],
    base: usize,
    header: SegmentHeader,
    name: SegmentName,
    size: SegmentSize,
    start: Lsn,
    /// Offset of the next byte to look at.
    at: usize,
    previous: Option<Lsn>,
    /// The timeline that the pages and records so far are of.
    timeline: TimelineId,
    /// A page claims that a new timeline begins; no record has said so yet.
    claimed: bool,
    /// A page says that a record was lost here; the next record must say so too.
    overwrites: bool,
    /// Nothing is known of the record that is open.
    blind: bool,
    found: SegmentScan,
    /// Where the last whole record ended, and what was known there.
    mark: Option<Mark>,
    seen: Seen<'a>,
}

#[derive(Clone, Copy)]
struct Mark {
    at: usize,
    previous: Option<Lsn>,
    timeline: TimelineId,
    claimed: bool,
}

pub(super) fn scan<'a>(
    bytes: &'a [u8],
    name: SegmentName,
    size: SegmentSize,
    system_identifier: Option<SystemIdentifier>,
    carry: Option<&Carry>,
    seen: Seen<'a>,
) -> Result<SegmentScan, ScanError> {
    let length = bytes.len();
    if length as u64 > size.get() {
        return Err(ScanError::TooLong { name, length });
    }
    let start = name.start(size);
    if let Some(Carry { next, .. }) = carry.filter(|carry| carry.next != start) {
        return Err(ScanError::OtherCarry { name, next: *next });
    }
    let header = SegmentHeader::read(bytes, name, size, system_identifier)?;
    // Two clusters' logs may be laid out alike: their records are not.
    let carry = carry.filter(|carry| {
        header.is_none_or(|header| header.system_identifier == carry.system_identifier)
    });
    let found = nothing(start, header.map_or(0, |header| header.major), carry);
    let first = match header.map(|header| header.page(bytes, 0)) {
        Some(Ok(Some(first))) => first,
        Some(Err(why)) => {
            let end = ScanEnd::Invalid { at: start, why };
            return Ok(SegmentScan { end, ..found });
        }
        _ => return Ok(found),
    };
    let Some(header) = header else {
        return Ok(found);
    };
    let mut scanner = Scanner {
        bytes,
        base: 0,
        header,
        name,
        size,
        start,
        at: 0,
        previous: carry.and_then(|carry| carry.previous),
        timeline: first.timeline,
        claimed: false,
        overwrites: false,
        blind: false,
        found,
        mark: None,
        seen,
    };
    let stop = scanner.begin(&first, carry).err();
    let stop = stop.unwrap_or_else(|| scanner.walk());
    scanner.finish(stop)
}

pub(super) fn scan_on(bytes: &[u8], resume: Resume) -> Result<SegmentScan, ScanError> {
    let Resume {
        header,
        name,
        size,
        at,
        previous,
        timeline,
        claimed,
        found,
    } = resume;
    let length = at + bytes.len();
    if length as u64 > size.get() {
        return Err(ScanError::TooLong { name, length });
    }
    let mark = Mark {
        at,
        previous,
        timeline,
        claimed,
    };
    let mut scanner = Scanner {
        bytes,
        base: at,
        header,
        name,
        size,
        start: name.start(size),
        at,
        previous,
        timeline,
        claimed,
        overwrites: false,
        blind: false,
        found: *found,
        mark: Some(mark),
        seen: None,
    };
    let stop = scanner.walk();
    scanner.finish(stop)
}

fn nothing(start: Lsn, major: u32, carry: Option<&Carry>) -> SegmentScan {
    SegmentScan {
        major,
        valid_end: start,
        end: ScanEnd::Data,
        complete: false,
        last_record_start: carry.and_then(|carry| carry.previous),
        first_commit: None,
        last_commit: None,
        first_xid: None,
        last_xid: None,
        restore_points: Vec::new(),
        unchecked_until: None,
        carry: None,
        resume: None,
    }
}

impl<'a> Scanner<'a> {
    fn lsn(&self) -> Lsn {
        self.start.advance(self.at as u64)
    }

    /// The bytes from here on.
    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at - self.base..).unwrap_or_default()
    }

    /// What comes next may be scanned another time, from here on.
    fn mark(&mut self) {
        self.mark = Some(Mark {
            at: self.at,
            previous: self.previous,
            timeline: self.timeline,
            claimed: self.claimed,
        });
    }

    /// Walks until something stops it.
    fn walk(&mut self) -> Stop {
        loop {
            if let Err(stop) = self.next_record() {
                return stop;
            }
        }
    }

    /// Finishes, or skips, the record that began in an earlier segment.
    fn begin(&mut self, first: &PageHeader, carry: Option<&Carry>) -> Result<(), Stop> {
        if first.timeline > self.name.timeline() {
            return Err(Invalid::Timeline.into());
        }
        match (carry, first.continues) {
            (Some(carry), _) => match carry.unfinished.clone() {
                Some(_) if first.overwrites => Ok(()),
                Some(record) => self.assemble(record),
                None => Ok(()),
            },
            (None, Some(rest)) => self.skip(rest as usize),
            (None, None) => Ok(()),
        }
    }

    fn next_record(&mut self) -> Result<(), Stop> {
        let begin = self.at;
        if self.at.is_multiple_of(PAGE) {
            let page = self.page()?.ok_or(Stop::Data(None))?;
            if page.continues.is_some() {
                return Err(Invalid::Continuation.into());
            }
            self.overwrites = page.overwrites;
            self.at += page.length;
        }
        let Some(total) = u32_at(self.rest(), 0) else {
            return Err(Stop::Data(None));
        };
        let record = Assembly::begin(self.lsn(), total);
        if record.is_err() {
            // The log ends with the last record, not with the page header behind it.
            self.at = begin;
        }
        self.assemble(record?)
    }

    /// The header of the page that begins here. `None` if the bytes end before or within it.
    fn page(&mut self) -> Result<Option<PageHeader>, Stop> {
        let Some(page) = self.header.page(self.rest(), self.at)? else {
            return Ok(None);
        };
        if page.timeline != self.timeline {
            if page.timeline < self.timeline || page.timeline > self.name.timeline() {
                return Err(Invalid::Timeline.into());
            }
            (self.timeline, self.claimed) = (page.timeline, true);
        }
        Ok(Some(page))
    }

    /// Reads the record to its end, over as many pages as it takes.
    fn assemble(&mut self, mut record: Assembly) -> Result<(), Stop> {
        while record.rest() > 0 {
            if self.at.is_multiple_of(PAGE) {
                let Some(page) = self.page()? else {
                    return Err(Stop::Data(Some(record)));
                };
                if page.overwrites {
                    return Ok(());
                }
                if page.continues != u32::try_from(record.rest()).ok() {
                    return Err(Invalid::Continuation.into());
                }
                self.at += page.length;
            }
            let chunk = self.chunk(record.rest());
            if chunk.is_empty() {
                return Err(Stop::Data(Some(record)));
            }
            self.at += chunk.len();
            record.feed(chunk, self.previous)?;
        }
        if !record.is_sound() {
            return Err(Invalid::Checksum.into());
        }
        self.pad()?;
        self.accept(&record)
    }

    /// At most `most` bytes from here to the end of the page.
    fn chunk(&self, most: usize) -> &'a [u8] {
        let in_page = PAGE - self.at % PAGE;
        let rest = self.rest();
        rest.get(..in_page.min(most).min(rest.len()))
            .unwrap_or_default()
    }

    /// Goes over the rest of a record that nothing is known of.
    fn skip(&mut self, mut rest: usize) -> Result<(), Stop> {
        self.blind = true;
        while rest > 0 {
            if self.at.is_multiple_of(PAGE) {
                let page = self.page()?.ok_or(Stop::Data(None))?;
                if page.overwrites {
                    break;
                }
                if page.continues != u32::try_from(rest).ok() {
                    return Err(Invalid::Continuation.into());
                }
                self.at += page.length;
            }
            let chunk = self.chunk(rest);
            if chunk.is_empty() {
                return Err(Stop::Data(None));
            }
            self.at += chunk.len();
            rest -= chunk.len();
        }
        self.pad()?;
        self.blind = false;
        self.found.unchecked_until = Some(self.lsn());
        self.found.valid_end = self.lsn();
        self.mark();
        Ok(())
    }

    /// Goes over the bytes between a record's end and where the next may begin.
    fn pad(&mut self) -> Result<(), Stop> {
        let end = self.at.next_multiple_of(ALIGNMENT);
        let padding = self.rest().get(..end - self.at).ok_or(Stop::Data(None))?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(Invalid::Padding.into());
        }
        self.at = end;
        Ok(())
    }

    /// Takes a whole and sound record into account.
    fn accept(&mut self, record: &Assembly) -> Result<(), Stop> {
        let read = Content::read(record, self.header.major);
        let is_overwritten = matches!(read, Content::Overwrite);
        if std::mem::take(&mut self.overwrites) != is_overwritten {
            return Err(Invalid::Continuation.into());
        }
        self.follow_timeline(&read)?;
        self.previous = Some(record.start);
        self.found.last_record_start = Some(record.start);
        self.found.valid_end = self.lsn();
        if let Some(seen) = &mut self.seen {
            seen(&Record::of(record, self.found.valid_end, &read));
        }
        match read {
            Content::Commit { at, xid } => {
                let found = &mut self.found;
                found.first_commit = Some(found.first_commit.map_or(at, |first| first.min(at)));
                found.last_commit = Some(found.last_commit.map_or(at, |last| last.max(at)));
                self.ended(xid);
            }
            Content::Abort { xid } => self.ended(xid),
            Content::RestorePoint { name, at } => {
                let lsn = self.lsn();
                self.found
                    .restore_points
                    .push(RestorePoint { name, lsn, at });
            }
            Content::Switch => return Err(Stop::Switch),
            Content::NewTimeline { .. }
            | Content::Overwrite
            | Content::FullPageWritesChange
            | Content::Other => {}
        }
        self.mark();
        Ok(())
    }

    /// A new timeline begins with a record that says so, and only then do the pages change.
    fn follow_timeline(&mut self, record: &Content) -> Result<(), Stop> {
        let own = self.name.timeline();
        match record {
            Content::NewTimeline { this } => {
                let this = TimelineId::new(*this).filter(|this| match self.claimed {
                    true => *this == self.timeline,
                    false => *this >= self.timeline && *this <= own,
                });
                self.timeline = this.ok_or(Invalid::Timeline)?;
                self.claimed = false;
            }
            Content::Overwrite | Content::FullPageWritesChange => {}
            _ if self.claimed => return Err(Invalid::Timeline.into()),
            _ => {}
        }
        Ok(())
    }

    /// Transaction ids go round: the older one is that from which the other is less than half a circle ahead.
    fn ended(&mut self, xid: u32) {
        let is_older = |a: u32, b: u32| a.wrapping_sub(b).cast_signed() < 0;
        let found = &mut self.found;
        found.first_xid = found
            .first_xid
            .filter(|first| !is_older(xid, *first))
            .or(Some(xid));
        found.last_xid = found
            .last_xid
            .filter(|last| !is_older(*last, xid))
            .or(Some(xid));
    }

    fn finish(self, stop: Stop) -> Result<SegmentScan, ScanError> {
        let (at, own, end) = (self.lsn(), self.name.timeline(), self.name.end(self.size));
        let whole = (self.base + self.bytes.len()) as u64 == self.size.get();
        let resume = self.resume();
        let rest = self.rest();
        // Where a timeline was left less than a record before the end of a segment, the record that says so ends in the next.
        let says_so_later =
            matches!(&stop, Stop::Data(Some(record)) if whole && may_begin_timeline(record));
        let mut found = self.found;
        let mut carry = Carry {
            system_identifier: self.header.system_identifier,
            next: end,
            previous: self.previous,
            unfinished: None,
        };
        match stop {
            Stop::Data(unfinished) if whole => {
                carry.unfinished = unfinished;
                (found.complete, found.end, found.valid_end) = (true, ScanEnd::Full, end);
                found.carry = (!self.blind).then_some(carry);
            }
            Stop::Data(_) => (found.end, found.resume) = (ScanEnd::Data, resume),
            Stop::Switch => {
                if whole && rest.iter().all(|byte| *byte == 0) {
                    found.valid_end = end;
                }
                (found.complete, found.end) = (whole, ScanEnd::Switch);
                found.carry = whole.then_some(carry);
            }
            Stop::Invalid(why) => found.end = ScanEnd::Invalid { at, why },
        }
        match self.timeline == own || says_so_later {
            true => Ok(found),
            false => Err(ScanError::OtherTimeline {
                name: self.name,
                found: self.timeline,
                until: found.valid_end,
            }),
        }
    }

    fn resume(&self) -> Option<Resume> {
        let Mark {
            at,
            previous,
            timeline,
            claimed,
        } = self.mark?;
        Some(Resume {
            header: self.header,
            name: self.name,
            size: self.size,
            at,
            previous,
            timeline,
            claimed,
            found: Box::new(self.found.clone()),
        })
    }
}
