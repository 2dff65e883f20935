//! Draws events while long work runs: bars on a terminal, log lines or JSON lines elsewhere; always on stderr.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use regrow::event::{Event, Reporter, Stage};
use serde_json::{Value, json};

use super::format::{amount, amount_rate, count, duration};
use super::terminal::{Terminal, clean};

/// Least time between two progress lines of a stage.
const EVERY: Duration = Duration::from_secs(5);
/// Skipped documents that are named on a terminal; all are counted.
const NAMED_ON_TERMINAL: u64 = 20;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Bars that are redrawn.
    Bars,
    /// Lines of text.
    Lines,
    /// Lines of JSON.
    Json,
    /// Warnings only.
    Quiet,
}

impl Style {
    /// The style that fits the flags and the place.
    pub(crate) fn choose(terminal: &Terminal, json: bool, quiet: bool) -> Self {
        match (quiet, json, terminal.stderr) {
            (true, _, _) => Self::Quiet,
            (_, true, _) => Self::Json,
            (_, _, true) => Self::Bars,
            _ => Self::Lines,
        }
    }
}

/// The time of an event: for stamps, and since the start for rates.
#[derive(Clone, Copy)]
struct Now {
    time: jiff::Timestamp,
    elapsed: Duration,
}

type Clock = Box<dyn Fn() -> Now + Send + Sync>;

/// The reporter of the command line.
pub(crate) struct Progress {
    style: Style,
    color: bool,
    unicode: bool,
    clock: Clock,
    bars: MultiProgress,
    state: Mutex<State>,
}

struct State {
    err: Box<dyn Write + Send>,
    stages: BTreeMap<Stage, Running>,
    skipped: u64,
    closed: bool,
}

struct Running {
    done: u64,
    total: Option<u64>,
    unit: &'static str,
    began: Duration,
    said: Duration,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Draws on this process's stderr.
    pub(crate) fn new(style: Style, terminal: &Terminal) -> Self {
        let start = Instant::now();
        let clock = Box::new(move || Now { time: jiff::Timestamp::now(), elapsed: start.elapsed() });
        Self::to(style, terminal, Box::new(std::io::stderr()), ProgressDrawTarget::stderr(), clock)
    }

    fn to(
        style: Style,
        terminal: &Terminal,
        err: Box<dyn Write + Send>,
        target: ProgressDrawTarget,
        clock: Clock,
    ) -> Self {
        let target = if style == Style::Bars { target } else { ProgressDrawTarget::hidden() };
        let state = State { err, stages: BTreeMap::new(), skipped: 0, closed: false };
        Self {
            style,
            color: terminal.stderr_color,
            unicode: terminal.unicode,
            clock,
            bars: MultiProgress::with_draw_target(target),
            state: Mutex::new(state),
        }
    }

    /// Documents that were skipped so far.
    #[cfg(test)]
    fn skipped(&self) -> u64 {
        self.state().skipped
    }

    /// Takes the bars away and says how many documents were skipped, where not all were named. Idempotent.
    pub(crate) fn close(&self) {
        let now = (self.clock)();
        let mut state = self.state();
        if std::mem::replace(&mut state.closed, true) {
            return;
        }
        for running in std::mem::take(&mut state.stages).into_values() {
            if let Some(bar) = running.bar {
                bar.finish_and_clear();
            }
        }
        let named = match self.style {
            Style::Bars => NAMED_ON_TERMINAL,
            Style::Quiet => 0,
            Style::Lines | Style::Json => u64::MAX,
        };
        if state.skipped > named {
            let more = if named == 0 { "" } else { "more " };
            let verb = if state.skipped - named == 1 { "was" } else { "were" };
            let text = format!("{} {more}{verb} skipped", amount(state.skipped - named, "documents"));
            self.say(&mut state, now, Level::Warning, &text);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line for people: above the bars, or with a time stamp in a log.
    fn say(&self, state: &mut State, now: Now, level: Level, text: &str) {
        let text = clean(text).replace('\n', " ");
        match self.style {
            Style::Json => {}
            Style::Bars if !self.bars.is_hidden() => {
                let text = match level {
                    Level::Info => text,
                    Level::Warning if self.color => format!("\u{1b}[33mwarning:\u{1b}[0m {text}"),
                    Level::Warning => format!("warning: {text}"),
                };
                // Progress is for looking at: a stderr that is gone must not stop the work.
                let _ = self.bars.println(text);
            }
            Style::Bars | Style::Lines | Style::Quiet => {
                let level = match level {
                    Level::Info => "",
                    Level::Warning => "warning: ",
                };
                let _ = writeln!(state.err, "{:.0} {level}{text}", now.time);
            }
        }
    }

    fn json(&self, state: &mut State, now: Now, level: &str, mut fields: Value) {
        if let Some(map) = fields.as_object_mut() {
            map.insert("time".to_owned(), format!("{:.3}", now.time).into());
            map.insert("level".to_owned(), level.into());
        }
        let _ = writeln!(state.err, "{fields}");
    }

    fn bar(&self, stage: Stage, total: Option<u64>, unit: &str) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden()));
        bar.set_style(self.bar_style(total.is_some(), unit));
        bar.set_prefix(stage.name());
        bar.set_message(if unit == "bytes" { String::new() } else { format!(" {unit}") });
        bar.enable_steady_tick(Duration::from_millis(250));
        bar
    }

    fn bar_style(&self, has_total: bool, unit: &str) -> ProgressStyle {
        let (position, length, rate) = match unit {
            "bytes" => ("{binary_bytes}", "{binary_total_bytes}", "{binary_bytes_per_sec}"),
            _ => ("{human_pos}", "{human_len}", "{per_sec}"),
        };
        let bar = if self.color { "{bar:28.cyan}" } else { "{bar:28}" };
        let template = match has_total {
            true => format!("{{prefix:>9}} {bar} {position}/{length}{{msg}}  {rate}  eta {{eta}}"),
            false => format!("{{prefix:>9}} {{spinner}} {position}{{msg}}  {rate}  {{elapsed}}"),
        };
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        match self.unicode {
            true => style.progress_chars("█▉▊▋▌▍▎▏ "),
            false => style.progress_chars("=> ").tick_chars("-\\|/ "),
        }
    }

    fn started(&self, state: &mut State, now: Now, stage: Stage, total: Option<u64>, unit: &'static str) {
        let bar = (self.style == Style::Bars).then(|| self.bar(stage, total, unit));
        let running = Running { done: 0, total, unit, began: now.elapsed, said: now.elapsed, bar };
        if let Some(before) = state.stages.insert(stage, running).and_then(|r| r.bar) {
            before.finish_and_clear();
        }
        if self.style == Style::Lines {
            let size = total.map_or_else(String::new, |t| format!(" {}", amount(t, unit)));
            self.say(state, now, Level::Info, &format!("{}:{} started", stage.name(), size));
        }
    }

    fn advanced(&self, state: &mut State, now: Now, stage: Stage, delta: u64) {
        let Some(running) = state.stages.get_mut(&stage) else { return };
        running.done = running.done.saturating_add(delta);
        if let Some(bar) = &running.bar {
            bar.inc(delta);
            return;
        }
        if now.elapsed.saturating_sub(running.said) < EVERY {
            return;
        }
        running.said = now.elapsed;
        let Running { done, total, unit, began, .. } = *running;
        let seconds = now.elapsed.saturating_sub(began).as_secs_f64();
        let rate = if seconds > 0.0 { done as f64 / seconds } else { 0.0 };
        let left = total.filter(|_| rate > 0.0).map(|t| t.saturating_sub(done) as f64 / rate);
        match self.style {
            Style::Lines => {
                let mut text = match total {
                    Some(total) if total > 0 => format!(
                        "{}: {} of {} ({:.0} %)",
                        stage.name(),
                        if unit == "bytes" { super::format::bytes(done) } else { count(done) },
                        amount(total, unit),
                        100.0 * done as f64 / total as f64
                    ),
                    _ => format!("{}: {}", stage.name(), amount(done, unit)),
                };
                text.push_str(&format!(", {}", amount_rate(rate, unit)));
                if let Some(left) = left {
                    text.push_str(&format!(", {} left", duration(left)));
                }
                self.say(state, now, Level::Info, &text);
            }
            Style::Json => self.json(
                state,
                now,
                "info",
                json!({"event": "progress", "stage": stage, "done": done, "total": total, "unit": unit,
                       "per_second": rate, "eta_seconds": left}),
            ),
            Style::Bars | Style::Quiet => {}
        }
    }

    fn finished(&self, state: &mut State, now: Now, stage: Stage, seconds: f64) {
        let running = state.stages.remove(&stage);
        if let Some(bar) = running.as_ref().and_then(|r| r.bar.as_ref()) {
            bar.finish_and_clear();
            self.bars.remove(bar);
        }
        let (done, unit) = running.map_or((0, ""), |r| (r.done, r.unit));
        match self.style {
            Style::Bars | Style::Lines => {
                let mut text = duration(seconds);
                if done > 0 {
                    text = format!("{} in {text}", amount(done, unit));
                    if seconds > 0.0 {
                        text.push_str(&format!(", {}", amount_rate(done as f64 / seconds, unit)));
                    }
                }
                let text = match self.style {
                    Style::Bars => format!("{:>9} {text}", stage.name()),
                    _ => format!("{}: {text}", stage.name()),
                };
                self.say(state, now, Level::Info, &text);
            }
            Style::Json => self.json(
                state,
                now,
                "info",
                json!({"event": "stage_finished", "stage": stage, "seconds": seconds, "done": done, "unit": unit}),
            ),
            Style::Quiet => {}
        }
    }

    fn skip(&self, state: &mut State, now: Now, uri: &str, line: Option<u64>, reason: &str) {
        state.skipped += 1;
        let named = match self.style {
            Style::Bars => state.skipped <= NAMED_ON_TERMINAL,
            Style::Lines => true,
            Style::Json | Style::Quiet => false,
        };
        if named {
            let line = line.map_or_else(String::new, |l| format!(":{l}"));
            self.say(state, now, Level::Warning, &format!("skipped {uri}{line}: {reason}"));
        }
        if self.style == Style::Bars && state.skipped == NAMED_ON_TERMINAL + 1 {
            self.say(state, now, Level::Warning, "more documents are skipped; they are counted from here on");
        }
    }
}

#[derive(Clone, Copy)]
enum Level {
    Info,
    Warning,
}

impl Reporter for Progress {
    fn event(&self, event: &Event) {
        let now = (self.clock)();
        let mut state = self.state();
        let state = &mut *state;
        if self.style == Style::Json {
            let level = match event {
                Event::Warning { .. } | Event::DocumentSkipped { .. } => "warning",
                _ => "info",
            };
            // Progress and ends are written with rates, below.
            if !matches!(event, Event::Progress { .. } | Event::StageFinished { .. })
                && let Ok(fields) = serde_json::to_value(event)
            {
                self.json(state, now, level, fields);
            }
        }
        match event {
            Event::StageStarted { stage, total, unit } => self.started(state, now, *stage, *total, unit),
            Event::StageTotal { stage, total } => {
                if let Some(running) = state.stages.get_mut(stage) {
                    if let Some(bar) = &running.bar {
                        if running.total.is_none() {
                            bar.set_style(self.bar_style(true, running.unit));
                        }
                        bar.set_length(*total);
                    }
                    running.total = Some(*total);
                }
            }
            Event::Progress { stage, delta } => self.advanced(state, now, *stage, *delta),
            Event::StageFinished { stage, seconds } => self.finished(state, now, *stage, *seconds),
            Event::DocumentSkipped { uri, line, reason } => self.skip(state, now, uri, *line, reason),
            Event::Note { text } if self.style != Style::Quiet => self.say(state, now, Level::Info, text),
            Event::Warning { text } => self.say(state, now, Level::Warning, text),
            _ => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Clone, Debug, Default)]
    struct Screen(Arc<Mutex<String>>);

    impl Screen {
        fn text(&self) -> String {
            self.0.lock().unwrap().clone()
        }
        fn add(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
    }

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.add(std::str::from_utf8(bytes).unwrap())?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl indicatif::TermLike for Screen {
        fn width(&self) -> u16 {
            100
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, s: &str) -> io::Result<()> {
            self.add(&format!("{s}\n"))
        }
        fn write_str(&self, s: &str) -> io::Result<()> {
            self.add(s)
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Bench {
        progress: Progress,
        screen: Screen,
        seconds: Arc<AtomicU64>,
    }

    fn bench(style: Style) -> Bench {
        let screen = Screen::default();
        let seconds = Arc::new(AtomicU64::new(0));
        let at = Arc::clone(&seconds);
        let clock = Box::new(move || {
            let s = at.load(Ordering::Relaxed);
            Now { time: jiff::Timestamp::from_second(s as i64).unwrap(), elapsed: Duration::from_secs(s) }
        });
        let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
        let progress = Progress::to(style, &Terminal::plain(), Box::new(screen.clone()), target, clock);
        Bench { progress, screen, seconds }
    }

    impl Bench {
        fn send(&self, event: Event) {
            self.progress.event(&event);
        }
        fn work(&self) {
            self.send(Event::StageStarted { stage: Stage::Embed, total: Some(4000), unit: "chunks" });
            for second in 1..=12 {
                self.seconds.store(second, Ordering::Relaxed);
                self.send(Event::Progress { stage: Stage::Embed, delta: 100 });
            }
            self.send(Event::StageFinished { stage: Stage::Embed, seconds: 12.0 });
        }
        fn skip(&self, n: u64) {
            for i in 1..=n {
                self.send(Event::DocumentSkipped { uri: format!("d{i}.md"), line: Some(i), reason: "bad".into() });
            }
        }
        fn lines(&self) -> Vec<String> {
            self.screen.text().lines().map(str::to_owned).collect()
        }
    }

    #[test]
    fn lines_come_at_most_every_five_seconds_with_rate_and_time_left() {
        let b = bench(Style::Lines);
        b.work();
        assert_eq!(
            b.lines(),
            [
                "1970-01-01T00:00:00Z embed: 4,000 chunks started",
                "1970-01-01T00:00:05Z embed: 500 of 4,000 chunks (12 %), 100/s, 35.0 s left",
                "1970-01-01T00:00:10Z embed: 1,000 of 4,000 chunks (25 %), 100/s, 30.0 s left",
                "1970-01-01T00:00:12Z embed: 1,200 chunks in 12.0 s, 100/s",
            ]
        );
    }

    #[test]
    fn json_lines_are_json_each_with_time_level_and_event() {
        let b = bench(Style::Json);
        b.work();
        b.skip(30);
        b.send(Event::Note { text: "line\nbreak".into() });
        b.send(Event::Warning { text: "careful".into() });
        b.progress.close();
        let all: Vec<Value> = b.lines().iter().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(all.len(), 4 + 30 + 2);
        assert!(all.iter().all(|v| v["time"].is_string() && v["level"].is_string() && v["event"].is_string()));
        assert_eq!(all[1]["eta_seconds"], 35.0);
        assert_eq!(
            all[3],
            json!({"event": "stage_finished", "stage": "embed", "seconds": 12.0, "done": 1200, "unit": "chunks",
                                  "time": "1970-01-01T00:00:12.000Z", "level": "info"})
        );
        assert_eq!((&all[4]["event"], &all[4]["level"]), (&json!("document_skipped"), &json!("warning")));
    }

    #[test]
    fn quiet_says_warnings_and_the_number_of_skipped_documents() {
        let b = bench(Style::Quiet);
        b.work();
        b.skip(3);
        b.send(Event::Note { text: "not shown".into() });
        b.send(Event::Warning { text: "careful".into() });
        b.progress.close();
        b.progress.close();
        assert_eq!(
            b.lines(),
            ["1970-01-01T00:00:12Z warning: careful", "1970-01-01T00:00:12Z warning: 3 documents were skipped"]
        );
    }

    #[test]
    fn a_log_names_every_skipped_document() {
        let b = bench(Style::Lines);
        b.skip(50);
        b.progress.close();
        assert_eq!(b.lines().len(), 50);
        assert!(b.screen.text().contains("warning: skipped d50.md:50: bad"));
        assert_eq!(b.progress.skipped(), 50);
    }

    #[test]
    fn a_terminal_gets_bars_and_lines_above_them() {
        let b = bench(Style::Bars);
        b.send(Event::StageStarted { stage: Stage::Read, total: None, unit: "documents" });
        b.send(Event::StageTotal { stage: Stage::Read, total: 40 });
        b.send(Event::Progress { stage: Stage::Read, delta: 30 });
        // Bars are redrawn a few times a second; not waiting for that.
        b.progress.state().stages[&Stage::Read].bar.as_ref().unwrap().force_draw();
        b.send(Event::Note { text: "the note\u{1b}[2J".into() });
        b.send(Event::Warning { text: "the warning".into() });
        b.skip(25);
        let drawn = b.screen.text();
        for part in ["read", "30/40 documents", "eta", "the note\\u{1b}[2J", "warning: the warning"] {
            assert!(drawn.contains(part), "{part} in {drawn}");
        }
        assert!(drawn.contains("skipped d20.md:20") && !drawn.contains("skipped d21.md"));
        b.send(Event::StageFinished { stage: Stage::Read, seconds: 2.0 });
        b.progress.close();
        assert!(b.screen.text().contains("30 documents in 2.0 s, 15/s"));
        assert!(b.screen.text().contains("warning: 5 documents more were skipped"));
        assert_eq!(b.progress.skipped(), 25);
    }

    #[test]
    fn stray_events_and_a_gone_stderr_do_no_harm() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let clock = || Box::new(|| Now { time: jiff::Timestamp::UNIX_EPOCH, elapsed: Duration::ZERO });
        for style in [Style::Lines, Style::Json, Style::Quiet, Style::Bars] {
            let p = Progress::to(style, &Terminal::plain(), Box::new(Gone), ProgressDrawTarget::hidden(), clock());
            p.event(&Event::Progress { stage: Stage::Load, delta: u64::MAX });
            p.event(&Event::StageFinished { stage: Stage::Load, seconds: 0.0 });
            p.event(&Event::StageStarted { stage: Stage::Load, total: Some(0), unit: "points" });
            p.event(&Event::StageStarted { stage: Stage::Load, total: None, unit: "points" });
            p.event(&Event::Progress { stage: Stage::Load, delta: u64::MAX });
            p.event(&Event::Progress { stage: Stage::Load, delta: 1 });
            p.event(&Event::Warning { text: "x".into() });
        }
    }

    #[test]
    fn the_style_fits_flags_and_place() {
        let terminal = Terminal { stderr: true, ..Terminal::plain() };
        assert_eq!(Style::choose(&terminal, false, false), Style::Bars);
        assert_eq!(Style::choose(&Terminal::plain(), false, false), Style::Lines);
        assert_eq!(Style::choose(&terminal, true, false), Style::Json);
        assert_eq!(Style::choose(&terminal, true, true), Style::Quiet);
    }
}
