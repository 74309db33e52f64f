//! The state as a frame of cells.

use std::time::Duration;

use ap::host::{Driver, Operation, Plan, QueueState};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::symbols::border;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};
use uuid::Uuid;

use super::model::{App, Message, Mode};
use crate::cli::ap::backend::Place;
use crate::cli::ap::picture::{Serves, Trouble};
use crate::cli::ap::print;

/// What the terminal can show.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub colour: bool,
    /// Letters, digits and signs of ASCII only.
    pub ascii: bool,
}

/// The smallest screen on which anything is shown.
const SMALLEST: (u16, u16) = (44, 12);
/// Columns of the panel beside the matrix: a device's name with marks.
const PANEL: u16 = 40;
/// Columns of the matrix before the first domain.
const HEAD: u16 = 9;
/// Lines of the matrix and its panel, at least, where there is room.
const MATRIX: u16 = 8;

const HINT: &str = "plug: a d c b  unplug: A D C B  device: Tab  order: s  help: ?  end: q";

/// What the help screen says before the legend.
const HELP: &[&str] = &[
    "arrows, h j k l   choose an adapter and a domain",
    "Tab, Shift-Tab    choose a mediated device; # is what its guest has",
    "a  A              assign the adapter to the device; take it away",
    "d  D              assign the domain; take it away",
    "c  C              assign the control domain; take it away",
    "b  B              bind the queue to vfio_ap; unbind it",
    "s                 busy queues first, or all in order",
    "q                 end",
    "",
    "Nothing is done before you have seen what it would do, and said y.",
    "req/s, latency: since the frame before; trend: latency, to its own height",
    "",
];

/// The name and the use of a colour; without colours bold and reverse stay.
struct Paint(Look);

impl Paint {
    fn colour(&self, colour: Color) -> Style {
        if self.0.colour { Style::new().fg(colour) } else { Style::new() }
    }

    fn serves(&self, serves: Serves) -> Style {
        match serves {
            Serves::Host => self.colour(Color::Blue),
            Serves::This => self.colour(Color::Green).bold(),
            Serves::Other => self.colour(Color::Magenta),
            Serves::Assigned => self.colour(Color::Yellow),
            Serves::Free | Serves::None => Style::new(),
            Serves::Control => self.colour(Color::Cyan),
        }
    }

    fn trouble(&self, trouble: Trouble) -> Style {
        match trouble {
            Trouble::Offline => self.colour(Color::DarkGray),
            Trouble::Checkstopped | Trouble::Unbound => self.colour(Color::Red).bold(),
            Trouble::Absent => self.colour(Color::Yellow),
        }
    }

    fn heading(&self) -> Style {
        self.colour(Color::Cyan).bold()
    }

    fn bad(&self) -> Style {
        self.colour(Color::Red).bold()
    }
}

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, app: &App, look: Look) {
    let area = frame.area();
    let paint = Paint(look);
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let text =
            format!("{}x{} is too small: {}x{} at least", area.width, area.height, SMALLEST.0, SMALLEST.1);
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let body = area.height - 3;
    let events = (body / 5).clamp(3, 12);
    let matrix = (app.picture.adapters.len() as u16 + 1).max(MATRIX).min((body - events) / 2);
    let table = (body - events - matrix).min(app.state.as_ref().map_or(0, |s| s.queues.len() as u16) + 1);
    let heights = [1, matrix, table, body - matrix - table, 1, 1].map(Constraint::Length);
    let [title, matrix, table, events, message, hint] = Layout::vertical(heights).areas(area);
    frame.render_widget(self::title(app, &paint, title.width), title);
    let wanted = HEAD + 3 * app.picture.domains.len() as u16 + 2;
    let widths = [Constraint::Max(wanted), Constraint::Min(PANEL)];
    let [grid, panel] = Layout::horizontal(widths).areas(matrix);
    frame.render_widget(Paragraph::new(self::grid(app, &paint, grid)), grid);
    frame.render_widget(Paragraph::new(self::panel(app, &paint, panel)), panel);
    frame.render_widget(Paragraph::new(self::table(app, &paint, table)), table);
    frame.render_widget(Paragraph::new(self::events(app, &paint, events)), events);
    frame.render_widget(self::message(app, &paint), message);
    frame.render_widget(Line::styled(HINT, Style::new().add_modifier(Modifier::DIM)), hint);
    match &app.mode {
        Mode::List => {}
        Mode::Help => popup(frame, &paint, "Help", help(&paint), "any key: back"),
        Mode::Confirm { operation, plan } => {
            let width = usize::from(area.width.min(100) - 6);
            let (title, hint) = match plan.as_deref() {
                None => ("One moment", "n: leave it".to_owned()),
                Some(Plan { refusal: None, .. }) => ("Do this?", "y: do it   n: leave it".into()),
                Some(Plan { refusal: Some(refusal), .. }) => match refusal.remedies().count().min(9) {
                    0 => ("This would be refused", "n: back".into()),
                    1 => ("This would be refused", "1: plan the first step of the remedy   n: back".into()),
                    count => (
                        "This would be refused",
                        format!("1 to {count}: plan the first step of that remedy   n: back"),
                    ),
                },
            };
            popup(frame, &paint, title, planned(&app.place, operation, plan.as_deref(), width), &hint);
        }
    }
}

fn title(app: &App, paint: &Paint, width: u16) -> Line<'static> {
    let mut text = format!("adjunct top {}", app.name);
    if let Some(state) = &app.state {
        let guests = state.mdevs.iter().filter(|mdev| mdev.attached).count();
        let counts = format!("{} queues  {} devices  {guests} in use", state.queues.len(), state.mdevs.len());
        let room = usize::from(width).saturating_sub(counts.len() + 2);
        text = format!("{:room$}  {counts}", cut(&text, room));
    }
    Line::styled(text, paint.heading().add_modifier(Modifier::REVERSED))
}

/// Which part of `count` things is shown in `room`, so that the one at `at` is seen.
fn window(count: usize, room: usize, at: usize) -> std::ops::Range<usize> {
    let start = at.saturating_sub(room / 2).min(count.saturating_sub(room));
    start..(start + room).min(count)
}

fn grid(app: &App, paint: &Paint, area: Rect) -> Vec<Line<'static>> {
    let picture = &app.picture;
    let (row, column) = app.place();
    let columns = usize::from(area.width.saturating_sub(HEAD + 2) / 3);
    let columns = window(picture.domains.len(), columns, column);
    let rows = window(picture.adapters.len(), usize::from(area.height - 1), row);
    let mark = |shown: bool, mark: &'static str| if shown { mark } else { " " };
    // What is beyond the edges.
    let marks = [
        mark(rows.start > 0, "^"),
        mark(rows.end < picture.adapters.len(), "v"),
        mark(columns.start > 0, "<"),
        mark(columns.end < picture.domains.len(), ">"),
    ];
    let mut header = vec![Span::raw(format!("{:1$}", marks.concat(), usize::from(HEAD)))];
    header.extend(columns.clone().map(|at| {
        let style = if at == column { paint.heading().reversed() } else { paint.heading() };
        Span::styled(format!("{:>3}", picture.domains[at]), style)
    }));
    let mut lines = vec![Line::from(header)];
    for (at, adapter) in rows.clone().zip(&picture.adapters[rows]) {
        let style = if at == row { paint.heading().reversed() } else { paint.heading() };
        let mut spans = vec![Span::styled(format!("{:2}", adapter.adapter), style)];
        spans.push(Span::raw(format!(" {:<1$}", adapter.type_name, usize::from(HEAD) - 3)));
        for column_at in columns.clone() {
            let cell = adapter.cells[column_at];
            let glyph = Span::styled(cell.serves.glyph().to_string(), paint.serves(cell.serves));
            let trouble = cell.trouble.map_or(Span::raw(" "), |trouble| {
                Span::styled(trouble.glyph().to_string(), paint.trouble(trouble))
            });
            if (at, column_at) == (row, column) {
                // What is wrong with this one is said beside it.
                spans.extend([Span::raw("["), glyph, Span::raw("]")]);
            } else {
                spans.extend([trouble, glyph, Span::raw(" ")]);
            }
        }
        lines.push(Line::from(spans));
    }
    lines
}

fn panel(app: &App, paint: &Paint, area: Rect) -> Vec<Line<'static>> {
    let Some(state) = &app.state else { return vec![Line::raw("waiting for the state")] };
    let width = usize::from(area.width);
    let cell = app.cell().unwrap_or_default();
    let mut words = vec![
        Span::styled(format!("{} ", app.selected), Style::new().bold()),
        Span::styled(cell.serves.meaning(app.picture.mdev), paint.serves(cell.serves)),
    ];
    if let Some(trouble) = cell.trouble {
        words.push(Span::styled(format!(", {}", trouble.meaning()), paint.trouble(trouble)));
    }
    let mut lines = vec![Line::from(words)];
    let driver = |queue: &QueueState| queue.driver.map_or("no driver", Driver::name);
    let driver = state.queue(app.selected).map_or("no such queue", driver);
    let mdev = state.mdev_of(app.selected).map(|mdev| format!(", of {}", &mdev.uuid.to_string()[..8]));
    lines.push(Line::raw(cut(&format!("{driver}{}", mdev.unwrap_or_default()), width)));
    if let Some(why) = &app.why {
        lines.extend(
            wrap(why, width).into_iter().take(2).map(|line| Line::styled(line, paint.colour(Color::Yellow))),
        );
    }
    lines.push(Line::styled("mediated devices (+ a guest has it)", paint.heading()));
    if state.mdevs.is_empty() {
        lines.push(Line::raw(format!("none; {}", app.create_mdev())));
    }
    let at = state.mdevs.iter().position(|mdev| Some(mdev.uuid) == app.mdev).unwrap_or(0);
    let room = usize::from(area.height).saturating_sub(lines.len() + 1).max(1);
    let shown = window(state.mdevs.len(), room, at);
    for (n, mdev) in shown.clone().zip(&state.mdevs[shown]) {
        let text = format!(
            "{} {}{}",
            if n == at { '>' } else { ' ' },
            mdev.uuid,
            if mdev.attached { " +" } else { "" }
        );
        lines.push(Line::styled(text, if n == at { Style::new().bold() } else { Style::new() }));
    }
    lines
}

const COLUMNS: &str = "queue   type  driver    status        req/s pending depth  latency  trend";
/// Columns before the trend.
const BEFORE_TREND: usize = 68;

fn table(app: &App, paint: &Paint, area: Rect) -> Vec<Line<'static>> {
    let queues = app.queues();
    let mut header = COLUMNS.to_owned();
    if app.by_rate {
        header = header.replace("  req/s", " *req/s");
    }
    let mut lines = vec![Line::styled(header, paint.heading())];
    let at = queues.iter().position(|queue| queue.queue == app.selected).unwrap_or(0);
    // Who wants the busy ones wants to see the first.
    let at = if app.by_rate { 0 } else { at };
    let shown = window(queues.len(), usize::from(area.height).saturating_sub(1), at);
    let types: Vec<_> =
        app.state.iter().flat_map(|s| &s.adapters).map(|a| (a.apid(), a.type_name())).collect();
    for queue in &queues[shown] {
        let type_name =
            types.iter().find(|(apid, _)| *apid == queue.queue.apid()).map_or("", |(_, name)| name);
        lines.push(queue_line(app, paint, queue, type_name, usize::from(area.width)));
    }
    lines
}

fn queue_line(app: &App, paint: &Paint, queue: &QueueState, type_name: &str, width: usize) -> Line<'static> {
    let figures = app.figures.get(&queue.queue);
    let count = |n: Option<u64>| n.map_or("-".into(), |n| n.to_string());
    // Nothing is known of a queue that nobody could ask.
    let depth = (queue.hardware != 0).then_some((queue.hardware & 0xf) + 1);
    let text = format!(
        "{:7} {:5} {:9} {:10} {:>8} {:>7} {:>5} {:>8}",
        queue.queue.to_string(),
        type_name,
        queue.driver.map_or("-", Driver::name),
        print::queue_status(queue),
        figures.and_then(|f| f.rate).map_or("-".into(), rate),
        count(queue.pending),
        count(depth),
        figures.and_then(|f| f.latency).map_or("-".into(), latency),
    );
    let mut style = match queue {
        QueueState { chkstop: true, .. } => paint.bad(),
        QueueState { config: false, .. } => paint.colour(Color::DarkGray),
        QueueState { status: Some(ap::host::QueueStatus::InUse), .. } => paint.colour(Color::Green),
        _ => Style::new(),
    };
    if queue.queue == app.selected {
        style = style.reversed();
    }
    let trend = figures.map(|figures| {
        let room = width.saturating_sub(BEFORE_TREND);
        let skip = figures.trend.len().saturating_sub(room);
        sparkline(figures.trend.iter().skip(skip).copied(), paint.0.ascii)
    });
    Line::from(vec![
        Span::styled(format!("{text:0$}", BEFORE_TREND - 2), style),
        Span::raw("  "),
        Span::styled(trend.unwrap_or_default(), paint.colour(Color::Yellow)),
    ])
}

/// Bars to the height of the highest.
fn sparkline(values: impl Iterator<Item = Option<Duration>> + Clone, ascii: bool) -> String {
    const BARS: [[char; 8]; 2] =
        [['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'], ['_', '.', '-', '~', '=', '+', '*', '#']];
    let highest = values.clone().flatten().max().unwrap_or_default().as_nanos().max(1);
    let bar = |value: Option<Duration>| {
        value.map_or(' ', |value| BARS[usize::from(ascii)][(value.as_nanos() * 7).div_ceil(highest) as usize])
    };
    values.map(bar).collect()
}

fn rate(rate: f64) -> String {
    match rate {
        ..9.95 => format!("{rate:.1}"),
        ..99_999.5 => format!("{rate:.0}"),
        ..99_999_500.0 => format!("{:.0}k", rate / 1e3),
        _ => format!("{:.0}M", rate / 1e6),
    }
}

fn latency(latency: Duration) -> String {
    let microseconds = latency.as_secs_f64() * 1e6;
    match microseconds {
        ..999.5 => format!("{microseconds:.0} us"),
        ..9_950.0 => format!("{:.1} ms", microseconds / 1e3),
        ..999_500.0 => format!("{:.0} ms", microseconds / 1e3),
        _ => format!("{:.1} s", microseconds / 1e6),
    }
}

fn events(app: &App, paint: &Paint, area: Rect) -> Vec<Line<'static>> {
    let mut lines = vec![Line::styled("     ago  what happened", paint.heading())];
    let room = usize::from(area.height).saturating_sub(1);
    for (when, text) in app.events.iter().take(room) {
        let ago = app.now.saturating_sub(*when).as_secs();
        let ago = match ago {
            0..60 => format!("{ago} s"),
            60..3600 => format!("{} min", ago / 60),
            _ => format!("{} h", ago / 3600),
        };
        lines.push(Line::raw(cut(&format!("{ago:>8}  {text}"), area.width.into())));
    }
    if app.events.is_empty() {
        lines.push(Line::styled("          nothing yet", Style::new().add_modifier(Modifier::DIM)));
    }
    lines
}

fn message(app: &App, paint: &Paint) -> Line<'static> {
    match (&app.lost, &app.message) {
        (Some(why), _) => {
            Line::styled(format!("no connection, trying again: {}", first_line(why)), paint.bad())
        }
        (None, Some(Message::Good(text))) => Line::styled(first_line(text), paint.colour(Color::Green)),
        (None, Some(Message::Bad(text))) => Line::styled(first_line(text), paint.bad()),
        (None, None) => Line::default(),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// Keys and signs. A sign of trouble stands before the one it is about.
fn help(paint: &Paint) -> Vec<Line<'static>> {
    let mut lines: Vec<_> = HELP.iter().map(|line| Line::raw(*line)).collect();
    // One device is always in the foreground here.
    let this = Some(Uuid::nil());
    let serves = Serves::ALL.into_iter().filter(|serves| *serves != Serves::None);
    let serves = serves.map(|s| (format!(" {}", s.glyph()), paint.serves(s), s.meaning(this)));
    let trouble =
        Trouble::ALL.into_iter().map(|t| (format!("{} ", t.glyph()), paint.trouble(t), t.meaning()));
    let legend: Vec<_> = serves.chain(trouble).collect();
    for pair in legend.chunks(2) {
        let mut spans = Vec::new();
        for (glyph, style, meaning) in pair {
            spans.push(Span::styled(glyph.clone(), *style));
            spans.push(Span::raw(format!(" {meaning:33}")));
        }
        lines.push(Line::from(spans));
    }
    lines
}

fn planned(place: &Place, operation: &Operation, plan: Option<&Plan>, width: usize) -> Vec<Line<'static>> {
    let mut text = Vec::new();
    match plan {
        Some(plan) => print::plan(&mut text, place, operation, plan),
        None => print::plan(&mut text, place, operation, &Plan::default()),
    }
    .expect("a vector takes everything");
    let text = String::from_utf8_lossy(&text);
    // Without a plan only the first line is known.
    let known = if plan.is_some() { usize::MAX } else { 1 };
    let mut lines: Vec<_> =
        text.lines().take(known).flat_map(|line| wrap(line, width)).map(Line::raw).collect();
    if let Some(first) = lines.first_mut() {
        *first = first.clone().bold();
    }
    lines
}

/// Puts a window over the screen, with a line below that says what the keys do.
fn popup(frame: &mut Frame<'_>, paint: &Paint, title: &str, mut lines: Vec<Line<'static>>, hint: &str) {
    let area = frame.area();
    let height = (lines.len() as u16).saturating_add(4).min(area.height);
    let room = usize::from(height).saturating_sub(4);
    if lines.len() > room {
        lines.truncate(room.saturating_sub(1));
        lines.push(Line::raw("and more than there is room for"));
    }
    let width = lines.iter().map(Line::width).max().unwrap_or(0).max(hint.len()).max(title.len() + 4) as u16;
    let width = (width + 4).min(area.width);
    let place = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    let ascii = border::Set {
        top_left: "+",
        top_right: "+",
        bottom_left: "+",
        bottom_right: "+",
        vertical_left: "|",
        vertical_right: "|",
        horizontal_top: "-",
        horizontal_bottom: "-",
    };
    let block = Block::bordered()
        .border_set(if paint.0.ascii { ascii } else { border::PLAIN })
        .title(Line::from(format!(" {title} ")).bold().alignment(Alignment::Center))
        .padding(ratatui::widgets::Padding::horizontal(1));
    lines.push(Line::default());
    lines.push(Line::styled(hint.to_owned(), paint.heading()));
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).block(block), place);
}

fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

/// Lines of at most `width` characters, broken between words where possible; indented as the first, and more.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let indent = " ".repeat((text.len() - text.trim_start().len() + 2).min(width / 2));
    let mut lines = vec![indent[..indent.len().saturating_sub(2)].to_owned()];
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        loop {
            let line = lines.last_mut().expect("there is always one");
            let used = line.chars().count();
            let gap = usize::from(!line.trim().is_empty());
            if used + gap + word.len() <= width {
                line.extend(std::iter::repeat_n(' ', gap).chain(word));
                break;
            }
            if gap == 0 {
                // Longer than a line.
                let rest = word.split_off(width.saturating_sub(used).max(1).min(word.len()));
                line.extend(word);
                word = rest;
                if word.is_empty() {
                    break;
                }
            }
            lines.push(indent.clone());
        }
    }
    lines
}
