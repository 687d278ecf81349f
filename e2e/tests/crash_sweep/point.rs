//! Where somebody dies, in words that repeat it.

use std::{fmt, str::FromStr};

use anyhow::{Context as _, Result, bail};
use highwater_e2e::flow::Death;

/// One run of the sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Something breaks.
    Crash(Crash),
    /// A controller is held up at a request, and goes on beside another one.
    Lease {
        /// Of the first controller's requests, from 1.
        number: usize,
        /// When it goes on.
        resumes: Resumes,
    },
}

/// What breaks, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crash {
    pub place: Place,
    /// From 1.
    pub number: usize,
    pub death: Death,
    pub back: Back,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The controller dies at one of its requests to the API server.
    ControllerRequest,
    /// The agent dies at one of its requests to the API server.
    AgentRequest,
    /// The agent dies at one of its statements.
    AgentStatement,
    /// The agent lives; the connection of one of its statements breaks.
    Connection,
}

/// When what has died is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    AtOnce,
    /// When no further attempt may begin: the backup may fail.
    AfterDeadline,
}

/// When a controller that was held up goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumes {
    /// The other one has sent some requests, and works on.
    Beside,
    /// The other one is done.
    Behind,
}

/// What a point may consist of, and its words.
const PLACES: [(Place, &str); 4] = [
    (Place::ControllerRequest, "controller-request"),
    (Place::AgentRequest, "agent-request"),
    (Place::AgentStatement, "agent-statement"),
    (Place::Connection, "connection"),
];
pub const DEATHS: [(Death, &str); 2] = [
    (Death::BeforeSending, "before-sending"),
    (Death::BeforeAnswer, "before-answer"),
];
const BACKS: [(Back, &str); 2] = [
    (Back::AtOnce, "at-once"),
    (Back::AfterDeadline, "after-deadline"),
];
pub const RESUMES: [(Resumes, &str); 2] =
    [(Resumes::Beside, "beside"), (Resumes::Behind, "behind")];
const LEASE: &str = "lease";

fn word<T: PartialEq>(words: &[(T, &'static str)], it: &T) -> &'static str {
    let found = words.iter().find(|(known, _)| known == it);
    found.map_or("?", |(_, word)| word)
}

fn parse<T: Copy>(words: &[(T, &str)], text: &str) -> Result<T> {
    let found = words.iter().find(|(_, word)| *word == text);
    let known = || words.iter().map(|(_, word)| *word).collect::<Vec<_>>();
    let found = found.with_context(|| format!("{text:?} is none of {:?}", known()));
    Ok(found?.0)
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash(Crash {
                place,
                number,
                death,
                back,
            }) => {
                let (place, death) = (word(&PLACES, place), word(&DEATHS, death));
                write!(f, "{place} {number} {death} {}", word(&BACKS, back))
            }
            Self::Lease { number, resumes } => {
                write!(f, "{LEASE} {number} {}", word(&RESUMES, resumes))
            }
        }
    }
}

impl FromStr for Point {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let words: Vec<_> = text.split_whitespace().collect();
        match words[..] {
            [LEASE, number, resumes] => Ok(Self::Lease {
                number: number.parse()?,
                resumes: parse(&RESUMES, resumes)?,
            }),
            [place, number, death, back] => Ok(Self::Crash(Crash {
                place: parse(&PLACES, place)?,
                number: number.parse()?,
                death: parse(&DEATHS, death)?,
                back: parse(&BACKS, back)?,
            })),
            _ => bail!("want a place, a number, a death and a return, or {LEASE}: {text:?}"),
        }
    }
}

/// How many requests and statements a life has in which nobody dies.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    pub controller_requests: usize,
    pub agent_requests: usize,
    pub agent_statements: usize,
}

impl Counts {
    /// Every point; some more, as no two lives are the same.
    pub fn points(&self) -> Vec<Point> {
        let Self {
            controller_requests,
            agent_requests,
            agent_statements,
        } = *self;
        let more = |count: usize| 1..=count + count / 10 + 1;
        let kinds = [
            (Place::ControllerRequest, controller_requests, Back::AtOnce),
            (Place::AgentRequest, agent_requests, Back::AtOnce),
            (Place::AgentStatement, agent_statements, Back::AtOnce),
            (Place::Connection, agent_statements, Back::AtOnce),
            (Place::AgentRequest, agent_requests, Back::AfterDeadline),
            (Place::AgentStatement, agent_statements, Back::AfterDeadline),
        ];
        let mut points = Vec::new();
        for (place, count, back) in kinds {
            for number in more(count) {
                points.extend(DEATHS.map(|(death, _)| {
                    Point::Crash(Crash {
                        place,
                        number,
                        death,
                        back,
                    })
                }));
            }
        }
        for number in more(controller_requests) {
            points.extend(RESUMES.map(|(resumes, _)| Point::Lease { number, resumes }));
        }
        points
    }
}

#[test]
fn a_point_is_repeated_by_its_words() {
    let counts = Counts {
        controller_requests: 2,
        agent_requests: 2,
        agent_statements: 12,
    };
    let points = counts.points();
    assert_eq!(points.len(), 2 * (3 + 3 + 14 + 14 + 3 + 14 + 3));
    for point in points {
        assert_eq!(point.to_string().parse::<Point>().unwrap(), point);
    }
    assert!("agent-statement x before-answer".parse::<Point>().is_err());
}
