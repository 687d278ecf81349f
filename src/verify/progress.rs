//! How far a verification is, on standard error: a bar on a terminal, a line now and then elsewhere.

use std::{io::IsTerminal as _, time::Duration};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    archive::verify::{Progress, Run},
    telemetry::say,
};

/// Between two pictures of the bar.
const FRAME: Duration = Duration::from_millis(200);
/// Between two lines.
const LINE: Duration = Duration::from_secs(5);

/// Shows it for ever: whoever verifies drops this at the end.
pub(super) async fn show(run: &Run) {
    match std::io::stderr().is_terminal() {
        true => bar(run).await,
        false => lines(run).await,
    }
}

/// Takes the bar away when it is dropped, so that the report stands alone.
struct Cleared(ProgressBar);

impl Drop for Cleared {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

async fn bar(run: &Run) {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = "{bar:32} {bytes}/{total_bytes} {bytes_per_sec} {msg}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    let bar = Cleared(bar);
    loop {
        let progress = run.progress();
        bar.0.set_length(progress.bytes);
        bar.0.set_position(progress.bytes_read);
        bar.0.set_message(message(progress, run.findings().len()));
        tokio::time::sleep(FRAME).await;
    }
}

async fn lines(run: &Run) {
    loop {
        tokio::time::sleep(LINE).await;
        let progress = run.progress();
        let text = message(progress, run.findings().len());
        let (read, all) = (HumanBytes(progress.bytes_read), HumanBytes(progress.bytes));
        say(format_args!("verified {read} of {all}, {text}"));
    }
}

fn message(progress: Progress, findings: usize) -> String {
    let Progress {
        objects,
        objects_read,
        bytes: _,
        bytes_read: _,
    } = progress;
    let wrong = match findings {
        0 => "nothing wrong".to_owned(),
        1 => "1 finding".to_owned(),
        several => format!("{several} findings"),
    };
    format!("{objects_read}/{objects} objects, {wrong}")
}
