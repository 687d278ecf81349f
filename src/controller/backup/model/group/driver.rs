//! Driver, snapshot controller and users: how they are with groups.

use annotations::GROUP_LABEL;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::json;

use super::{
    super::{CLAIMS, Truth, World, object},
    Answer, GroupEvent, Groups, annotations, build_group_label, recorded, volume_of,
};
use crate::csi::{
    DeletionPolicy, VolumeSnapshot,
    group::{
        GROUP_DELETED_ANNOTATION, MEMBER_ANNOTATION, VolumeGroupSnapshot, VolumeSnapshotInfo,
        group_content_name, member_content_name, member_name,
    },
};

/// A claim of another database.
const FOREIGN: &str = "data-billing-0";

fn owner(snapshot: &VolumeSnapshot) -> Option<&String> {
    snapshot.owner_references().first().map(|it| &it.uid)
}

impl Groups {
    fn is_there(&self, uid: &String) -> bool {
        let mut all = self.snapshots.iter();
        all.any(|it| it.metadata.uid.as_ref() == Some(uid))
    }

    /// A member cannot go while its group is there.
    pub fn hold(&self, snapshot: &VolumeSnapshot) -> bool {
        owner(snapshot).is_some_and(|uid| self.is_there(uid))
    }

    /// As the snapshot controller makes it: of the claims that the selector finds now.
    fn make_content(&mut self, group: &VolumeGroupSnapshot, n: u8) {
        let uid = group.uid().unwrap();
        let selector = group.spec.source.selector.clone().unwrap();
        let label = &selector.match_labels.unwrap()[GROUP_LABEL];
        let claims = self.labelled(label);
        let mut volumes: Vec<_> = claims.iter().map(|it| volume_of(&it.claim)).collect();
        if n & 8 != 0 {
            volumes.reverse();
        }
        self.contents.push(object(json!({
            "metadata": {"name": group_content_name(&uid), "uid": format!("content-{uid}")},
            "spec": {"driver": "cow.example", "deletionPolicy": "Retain", "source": {"volumeHandles": volumes},
                "volumeGroupSnapshotRef": {"name": group.name_any(), "namespace": "shop", "uid": uid}},
        })));
    }

    /// The driver cuts all volumes at once. It knows of no attempt that is void.
    fn cut(&mut self, at: usize, live: Option<u32>, now: Timestamp, n: u8) {
        let content = &mut self.contents[at];
        let of = content.spec.volume_group_snapshot_ref.uid.clone().unwrap();
        let mut volumes = content.spec.source.volume_handles.clone();
        let status = content.status.get_or_insert_default();
        match self.answer.take() {
            Some(Answer::Fails) => {
                status.error = Some(object(json!({"message": "busy"})));
                return;
            }
            Some(Answer::Missing) => drop(volumes.pop()),
            Some(Answer::More) => volumes.push("h-of-somebody".to_owned()),
            None => {}
        }
        if n & 16 != 0 {
            volumes.reverse();
        }
        let info = |volume: &String| VolumeSnapshotInfo {
            volume_handle: volume.clone(),
            snapshot_handle: format!("cut-{of}-{volume}"),
        };
        status.error = None;
        status.creation_time = Some(Time(now));
        status.volume_group_snapshot_handle = Some(format!("g-{of}"));
        status.volume_snapshot_info_list = volumes.iter().map(info).collect();
        let truth = self.truths.get_mut(&of).unwrap();
        (truth.cut_in, truth.volumes, truth.stored) = (live, volumes, true);
    }
}

impl World {
    /// One thing more of a group: its content, the cut, its pointer, a member.
    pub(in super::super) fn drive_group(&mut self, at: usize, n: u8) {
        let group = self.groups.snapshots[at].clone();
        let name = group_content_name(&group.uid().unwrap());
        let goes = group.metadata.deletion_timestamp.is_some();
        let mut contents = self.groups.contents.iter();
        let content = contents.position(|it| it.name_any() == name);
        let Some(content) = content else {
            if !goes {
                self.groups.make_content(&group, n);
            }
            return;
        };
        let status = self.groups.contents[content].status.clone();
        let status = status.filter(|it| it.volume_group_snapshot_handle.is_some());
        let Some(status) = status else {
            return self.groups.cut(content, self.live, self.now, n);
        };
        if goes {
            return;
        }
        let mut list = status.volume_snapshot_info_list;
        list.retain(|info| !self.is_made(&group, info));
        match list.len() {
            0 => self.point_group(at, &name),
            _ if n & 4 != 0 => self.point_group(at, &name),
            missing => self.make_member(&group, &list[usize::from(n) % missing]),
        }
    }

    fn point_group(&mut self, at: usize, name: &str) {
        let status = &mut self.groups.snapshots[at].status;
        let status = status.get_or_insert_default();
        status.bound_volume_group_snapshot_content_name = Some(name.to_owned());
    }

    fn is_made(&self, group: &VolumeGroupSnapshot, info: &VolumeSnapshotInfo) -> bool {
        let name = member_name(&group.uid().unwrap(), &info.volume_handle);
        self.snapshots.iter().any(|it| it.name_any() == name)
    }

    /// First its content, then the member.
    fn make_member(&mut self, group: &VolumeGroupSnapshot, info: &VolumeSnapshotInfo) {
        let (of, volume) = (group.uid().unwrap(), &info.volume_handle);
        let (name, content) = (member_name(&of, volume), member_content_name(&of, volume));
        if self.contents.iter().all(|it| it.name_any() != content) {
            let of_group = self.groups.content(&format!("content-{of}")).unwrap();
            let policy = of_group.spec.deletion_policy;
            self.uids += 1;
            self.contents.push(object(json!({
                "metadata": {"name": content, "uid": format!("content-uid-{}", self.uids),
                    "annotations": {MEMBER_ANNOTATION: format!("g-{of}")}},
                "spec": {"driver": "cow.example", "deletionPolicy": policy, "source": {"volumeHandle": volume},
                    "volumeSnapshotRef": {"name": name, "namespace": "shop"}},
            })));
            return;
        }
        self.uids += 1;
        let uid = format!("uid-{}", self.uids);
        let claim = volume.strip_prefix("h-").unwrap();
        let truth = &self.groups.truths[&of];
        let truth = Truth {
            attempt: truth.attempt,
            claim: Some(claim.to_owned()),
            cut: true,
            cut_in: truth.cut_in,
        };
        self.truths.insert(uid.clone(), truth);
        self.snapshots.push(object(json!({
            "metadata": {"name": name, "namespace": "shop", "uid": uid, "creationTimestamp": Time(self.now),
                "ownerReferences": [{"apiVersion": "groupsnapshot.storage.k8s.io/v1",
                    "kind": "VolumeGroupSnapshot", "name": group.name_any(), "uid": of}]},
            "spec": {"source": {"persistentVolumeClaimName": claim}},
        })));
    }

    /// One thing more of a member: both pointers, the cut, readiness.
    pub(in super::super) fn drive_member(&mut self, at: usize) {
        let now = self.now;
        let snapshot = &mut self.snapshots[at];
        let name = snapshot.name_any().replace("snapshot-", "snapcontent-");
        let content = self.contents.iter_mut().find(|it| it.name_any() == name);
        let Some(content) = content else { return };
        if content.spec.volume_snapshot_ref.uid.is_none() {
            content.spec.volume_snapshot_ref.uid = snapshot.uid();
            return;
        }
        let own = snapshot.status.get_or_insert_default();
        if own.bound_volume_snapshot_content_name.is_none() {
            own.bound_volume_snapshot_content_name = Some(name);
            return;
        }
        let of = owner(snapshot).unwrap();
        let volume = content.spec.source.volume_handle.clone().unwrap();
        let status = content.status.get_or_insert_default();
        if status.creation_time.is_none() {
            status.creation_time = Some(now.as_nanosecond().try_into().unwrap());
            status.snapshot_handle = Some(format!("cut-{of}-{volume}"));
        } else {
            status.ready_to_use = Some(true);
            status.error = None;
        }
    }

    /// The snapshot controller finishes deletions of groups, the sidecar those of their contents, and the garbage collector
    /// what they own.
    pub(in super::super) fn collect_groups(&mut self) {
        let time = Time(self.now);
        let groups = &mut self.groups;
        let is_going = |it: &VolumeGroupSnapshot| it.metadata.deletion_timestamp.is_some();
        for group in groups.snapshots.iter().filter(|it| is_going(it)) {
            // Where it does not point at its content yet, the snapshot controller does not look for one.
            let status = group.status.as_ref();
            let name = status.and_then(|it| it.bound_volume_group_snapshot_content_name.clone());
            let mut contents = groups.contents.iter_mut();
            if let Some(content) = contents.find(|it| it.metadata.name == name) {
                let mark = (GROUP_DELETED_ANNOTATION.to_owned(), "yes".to_owned());
                content.annotations_mut().extend([mark]);
                if content.spec.deletion_policy == DeletionPolicy::Delete {
                    let at = &mut content.metadata.deletion_timestamp;
                    at.get_or_insert(time.clone());
                }
            }
        }
        groups.snapshots.retain(|it| !is_going(it));
        let truths = &mut groups.truths;
        groups.contents.retain(|content| {
            let told = content.annotations().contains_key(GROUP_DELETED_ANNOTATION);
            let goes = content.metadata.deletion_timestamp.is_some() && told;
            if goes && content.spec.deletion_policy == DeletionPolicy::Delete {
                let of = content.spec.volume_group_snapshot_ref.uid.as_ref();
                truths.get_mut(of.unwrap()).unwrap().stored = false;
            }
            !goes
        });
        for snapshot in &mut self.snapshots {
            if owner(snapshot).is_some_and(|uid| !groups.is_there(uid)) {
                let at = &mut snapshot.metadata.deletion_timestamp;
                at.get_or_insert(time.clone());
            }
        }
    }

    pub(in super::super) fn group_event(&mut self, event: GroupEvent) {
        match event {
            GroupEvent::Answer(answer) => self.groups.answer = Some(answer),
            GroupEvent::Delete => self.groups.go(&Time(self.now)),
            GroupEvent::Label(n) => {
                let backup = self.backup.as_ref();
                let group = backup.and_then(|it| Some((it, recorded(it)?)));
                let Some(label) = group.map(|(backup, group)| build_group_label(backup, group))
                else {
                    return;
                };
                match CLAIMS.get(usize::from(n)) {
                    Some(claim) => self.groups.label(claim, None),
                    None => self.groups.label(FOREIGN, Some(label)),
                }
            }
        }
    }
}
