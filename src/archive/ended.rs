//! Looking transactions up in archived WAL.

use super::{
    Contents, Lineage, ReadError, Request,
    plan::{Ended, to_look_up},
};
use crate::postgres::{
    SegmentName,
    wal::{self, Carry, Content, Record},
};

impl Lineage {
    /// Where the transaction that `request` asks for ends. Why nothing can be planned the plan says.
    ///
    /// # Errors
    /// The archive cannot be read.
    pub async fn look_up(
        &self,
        request: &Request,
        contents: &Contents,
    ) -> Result<Vec<Ended>, ReadError> {
        let target = request.target.as_ref();
        match (target.and_then(|it| it.xid), to_look_up(request, contents)) {
            (Some(xid), Ok(names)) => self.ended(&names, xid.in_wal(), contents).await,
            (None, _) | (_, Err(_)) => Ok(Vec::new()),
        }
    }

    /// Where transaction `xid` ends in these segments, whole or not, in their order. What can be read with a private key only
    /// is left out, and what is there no more.
    ///
    /// # Errors
    /// The archive cannot be read.
    pub async fn ended(
        &self,
        names: &[SegmentName],
        xid: u32,
        contents: &Contents,
    ) -> Result<Vec<Ended>, ReadError> {
        let mut found = Vec::new();
        for name in names {
            match self.ended_in(*name, xid, contents).await {
                Ok(ended) => found.extend(ended),
                Err(error) if error.wants_key() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    async fn ended_in(
        &self,
        name: SegmentName,
        xid: u32,
        contents: &Contents,
    ) -> Result<Vec<Ended>, ReadError> {
        let identity = &contents.identity;
        let (size, system) = (identity.segment_size, identity.system_identifier);
        let length = usize::try_from(size.get()).unwrap_or(usize::MAX);
        let plain = match contents.segments.contains_key(&name) {
            true => self.whole(name, length).await?.unwrap_or_default(),
            false => self.listed_tail(name, length).await?.plain,
        };
        // The record may begin in the segment before.
        let carry = self.carry_into(name, name.start(size), contents).await?;
        let work = move || {
            let mut found = Vec::new();
            let mut seen = |record: &Record| found.extend(end_of(record, xid, name));
            let carry: Option<&Carry> = carry.as_ref();
            let scan = wal::scan_records(&plain, name, size, Some(system), carry, &mut seen);
            if let Err(error) = scan {
                tracing::warn!(%name, %error, "archived WAL is not understood");
            }
            found
        };
        Ok(tokio::task::spawn_blocking(work).await.unwrap_or_default())
    }
}

fn end_of(record: &Record, wanted: u32, name: SegmentName) -> Option<Ended> {
    let (xid, committed) = match &record.content {
        Content::Commit { at, xid } => (*xid, Some(*at)),
        Content::Abort { xid } => (*xid, None),
        Content::RestorePoint { .. }
        | Content::Switch
        | Content::NewTimeline { .. }
        | Content::Overwrite
        | Content::FullPageWritesChange
        | Content::Other => return None,
    };
    (xid == wanted).then_some(Ended {
        timeline: name.timeline(),
        start: record.start,
        end: record.end,
        committed,
    })
}
