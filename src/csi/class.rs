//! By which VolumeSnapshotClass a volume is snapshotted. Pure.

use kube::ResourceExt;

use super::VolumeSnapshotClass;

/// Why there is none, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum NoClass {
    #[error("no VolumeSnapshotClass is of driver {driver}, which claim {claim} is on: install one")]
    OfDriver { driver: String, claim: String },
    #[error(
        "several VolumeSnapshotClasses are of driver {driver} ({classes}): mark one as default with the annotation snapshot.storage.kubernetes.io/is-default-class, or name one in the PgBackupPolicy"
    )]
    Ambiguous { driver: String, classes: String },
    #[error(
        "there is no VolumeSnapshotClass {0}: create it, or name another one in the PgBackupPolicy"
    )]
    NotFound(String),
    #[error(
        "VolumeSnapshotClass {class} is of driver {of}, claim {claim} is on driver {driver}: name a class of that driver in the PgBackupPolicy, or none"
    )]
    DriverMismatch {
        class: String,
        of: String,
        claim: String,
        driver: String,
    },
}

impl NoClass {
    /// For conditions, events and metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::OfDriver { .. } => "NoSnapshotClass",
            Self::Ambiguous { .. } => "SnapshotClassAmbiguous",
            Self::NotFound(_) => "SnapshotClassNotFound",
            Self::DriverMismatch { .. } => "SnapshotClassDriverMismatch",
        }
    }
}

/// The class for a claim whose volume is of `driver`: the one that the policy names, the driver's default, or its only one.
///
/// # Errors
/// There is none, or more than one.
pub fn class_for<'a>(
    classes: &'a [VolumeSnapshotClass],
    named: Option<&str>,
    driver: &str,
    claim: &str,
) -> Result<&'a VolumeSnapshotClass, NoClass> {
    if let Some(name) = named {
        let class = classes.iter().find(|class| class.name_any() == name);
        let class = class.ok_or_else(|| NoClass::NotFound(name.to_owned()))?;
        if class.driver != driver {
            return Err(NoClass::DriverMismatch {
                class: name.to_owned(),
                of: class.driver.clone(),
                claim: claim.to_owned(),
                driver: driver.to_owned(),
            });
        }
        return Ok(class);
    }
    let fits = |class: &VolumeSnapshotClass| class.driver == driver;
    match of_driver(classes, fits, VolumeSnapshotClass::is_default).as_slice() {
        [class] => Ok(class),
        [] => Err(NoClass::OfDriver {
            driver: driver.to_owned(),
            claim: claim.to_owned(),
        }),
        several => Err(NoClass::Ambiguous {
            driver: driver.to_owned(),
            classes: names(several),
        }),
    }
}

/// Among the classes that fit: those marked as default; where none is, all of them.
pub(super) fn of_driver<C>(
    classes: &[C],
    fits: impl Fn(&C) -> bool,
    is_default: impl Fn(&C) -> bool,
) -> Vec<&C> {
    let fitting: Vec<&C> = classes.iter().filter(|class| fits(class)).collect();
    let default = fitting.iter().copied().filter(|class| is_default(class));
    let default: Vec<&C> = default.collect();
    if default.is_empty() { fitting } else { default }
}

/// In a sentence.
pub(super) fn names<C: ResourceExt>(classes: &[&C]) -> String {
    let mut names: Vec<_> = classes.iter().map(|class| class.name_any()).collect();
    names.sort();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::DEFAULT_CLASS_ANNOTATION;

    fn class_of(name: &str, driver: &str, default: bool) -> VolumeSnapshotClass {
        let mut class = VolumeSnapshotClass {
            driver: driver.into(),
            ..VolumeSnapshotClass::default()
        };
        class.metadata.name = Some(name.into());
        let mark = (DEFAULT_CLASS_ANNOTATION.to_owned(), default.to_string());
        class.metadata.annotations = Some([mark].into());
        class
    }

    #[test]
    fn the_class_is_the_policys_or_the_drivers() {
        let classes = [
            class_of("gold", "fast.example", true),
            class_of("iron", "fast.example", false),
            class_of("lone", "slow.example", false),
            class_of("left", "twin.example", true),
            class_of("right", "twin.example", true),
        ];
        for (named, driver, expected) in [
            (None, "fast.example", Ok("gold")),
            (None, "slow.example", Ok("lone")),
            (None, "none.example", Err("NoSnapshotClass")),
            (None, "twin.example", Err("SnapshotClassAmbiguous")),
            (Some("iron"), "fast.example", Ok("iron")),
            (
                Some("iron"),
                "slow.example",
                Err("SnapshotClassDriverMismatch"),
            ),
            (Some("tin"), "fast.example", Err("SnapshotClassNotFound")),
        ] {
            let found = class_for(&classes, named, driver, "data-0").map(ResourceExt::name_any);
            let found = found.as_deref().map_err(|none| none.reason());
            assert_eq!(found, expected, "{named:?} {driver}");
        }
    }
}
