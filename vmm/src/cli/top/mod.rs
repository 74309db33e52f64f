//! `adjunct top`: an AP host or a guest's AP devices on a screen, and keys that plug and unplug.
//!
//! `model` has what is known and what keys do, `draw` makes a frame of it; neither knows a terminal or a socket. `source`
//! reaches the host or the guest, `screen` the terminal. `svg` makes a frame a picture.

mod draw;
mod model;
mod screen;
mod source;
mod svg;
#[cfg(test)]
mod tests;

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use vmm::host::Signals;

use crate::cli::terminal::{SIGNALLED, guarded, on_signal};
use crate::{BAD_ARGUMENTS, HOST_FAILURE};
use draw::{Look, draw};
use model::{Action, App, Update};
use screen::Screen;
use source::{Address, Source};

/// What `adjunct help top` ends with.
pub const AFTER_HELP: &str = "\
Examples:
  adjunct top unix:/run/user/1000/ap     # the AP host that `adjunct ap-host serve --socket` made
  adjunct top /run/vm                    # a guest's socket (`adjunct run --qmp unix:/run/vm`)
  adjunct top /run/vm --once             # one frame, as text
  adjunct top /run/vm --once --svg --size 100x30 --press 'Right Down a' > plan.svg

With NO_COLOR set, or TERM=dumb, there are no colours; with TERM=dumb each frame is printed below the one before.

Exit status: 0 ended by q; 2 bad arguments; 3 no connection, or no terminal; 4 ended by a signal.";

/// How long after an event others are awaited before the state is asked for.
const SWARM: Duration = Duration::from_millis(50);

/// What to look at, and how.
#[derive(clap::Args)]
pub struct Arguments {
    /// A guest's management socket, or unix:PATH of an AP host's
    #[arg(env = "ADJUNCT_AP_HOST")]
    socket: String,

    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,

    /// Print one frame and end
    #[arg(long)]
    once: bool,

    /// How often to look before the frame: rates need two looks, a latency's course more
    #[arg(long, value_name = "N", default_value = "2", requires = "once", value_parser = clap::value_parser!(u32).range(2..=1000))]
    looks: u32,

    /// The frame as an SVG picture
    #[arg(long, requires = "once")]
    svg: bool,

    /// Columns and lines of the frame [default: the terminal's, else 80x24]
    #[arg(long, value_name = "COLUMNSxLINES", requires = "once", value_parser = size)]
    size: Option<(u16, u16)>,

    /// Keys that are pressed before the frame, with spaces between: letters, Up, Down, Left, Right, Tab, Enter, Esc.
    /// Operations that they confirm are carried out
    #[arg(long, value_name = "KEYS", requires = "once", value_parser = keys)]
    press: Option<Keys>,
}

#[derive(Clone)]
struct Keys(Vec<KeyCode>);

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "not a number of seconds from 0.1 to 3600".into())
}

fn size(text: &str) -> Result<(u16, u16), String> {
    let parse = || {
        let (columns, lines) = text.split_once('x')?;
        let fits = |n: &u16| (1..=1000).contains(n);
        Some((columns.parse().ok().filter(fits)?, lines.parse().ok().filter(fits)?))
    };
    parse().ok_or_else(|| "not COLUMNSxLINES, like 80x24".into())
}

fn keys(text: &str) -> Result<Keys, String> {
    let key = |word: &str| {
        Ok(match word {
            "Up" => KeyCode::Up,
            "Down" => KeyCode::Down,
            "Left" => KeyCode::Left,
            "Right" => KeyCode::Right,
            "Tab" => KeyCode::Tab,
            "Enter" => KeyCode::Enter,
            "Esc" => KeyCode::Esc,
            _ => match word.chars().collect::<Vec<_>>()[..] {
                [letter] => KeyCode::Char(letter),
                _ => return Err(format!("{word}: no key")),
            },
        })
    };
    text.split_whitespace().map(key).collect::<Result<_, _>>().map(Keys)
}

/// Shows it until the user has seen enough; the exit status.
pub fn main(arguments: &Arguments) -> u8 {
    let address = Address::of(&arguments.socket);
    let failed = |message: String| {
        eprintln!("adjunct: {message}");
        HOST_FAILURE
    };
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if !arguments.once && !terminal {
        eprintln!("adjunct: top: standard input and output are no terminal; --once prints one frame");
        return BAD_ARGUMENTS;
    }
    // What cannot be reached at all is told before anything is on the screen.
    let mut source = match address.open() {
        Ok(source) => source,
        Err(message) => return failed(message),
    };
    if arguments.once {
        return once(arguments, &mut *source).map_or_else(failed, |()| 0);
    }
    drop(source);
    interactive(arguments, address).unwrap_or_else(failed)
}

/// One frame on standard output.
fn once(arguments: &Arguments, source: &mut dyn Source) -> Result<(), String> {
    let (to, events) = mpsc::channel();
    let (address, interval) = (Address::of(&arguments.socket), arguments.interval);
    let watch = move || watch(&address, interval, &to);
    thread::Builder::new().name("events".into()).spawn(watch).map_err(|e| format!("start a thread: {e}"))?;
    let begin = Instant::now();
    let mut app = App::new(&arguments.socket, arguments.interval);
    let look = |app: &mut App, source: &mut dyn Source| {
        app.update(Update::State(Box::new(source.state()?)), begin.elapsed());
        Ok::<_, String>(())
    };
    look(&mut app, source)?;
    // The keys come between the last look but one and the last.
    for n in 1..arguments.looks {
        if n + 1 == arguments.looks {
            press(arguments, &mut app, source, &look, begin)?;
        }
        thread::sleep(arguments.interval);
        for wake in events.try_iter() {
            if let Wake::Update(update) = wake {
                app.update(update, begin.elapsed());
            }
        }
        look(&mut app, source)?;
    }
    let (columns, lines) = arguments.size.unwrap_or_else(|| {
        let terminal = std::io::stdout().is_terminal().then(ratatui::crossterm::terminal::size);
        terminal.and_then(Result::ok).unwrap_or((80, 24))
    });
    let frame =
        frame(&app, columns, lines, Look { colour: arguments.svg, ascii: !arguments.svg && screen::ascii() });
    let text = if arguments.svg { svg::svg(&frame) } else { screen::text(&frame, "\n") };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(format!("write to standard output: {e}")),
        _ => Ok(()),
    }
}

/// Presses the keys of `--press`, and does at once what they ask for.
fn press(
    arguments: &Arguments,
    app: &mut App,
    source: &mut dyn Source,
    look: &dyn Fn(&mut App, &mut dyn Source) -> Result<(), String>,
    begin: Instant,
) -> Result<(), String> {
    for code in arguments.press.iter().flat_map(|keys| &keys.0) {
        let mut next = app.key(KeyEvent::new(*code, KeyModifiers::NONE));
        while let Some(action) = next {
            next = match action {
                Action::Plan(operation) => {
                    let plan = source.plan(&operation)?;
                    app.update(Update::Plan(operation, Box::new(plan)), begin.elapsed())
                }
                Action::Execute(operation) => {
                    let result = source.execute(&operation)?;
                    app.update(Update::Executed(operation, result), begin.elapsed())
                }
                Action::Refresh => {
                    look(app, source)?;
                    None
                }
                Action::Quit => return Ok(()),
            };
        }
    }
    Ok(())
}

/// A frame that is on no terminal.
fn frame(app: &App, columns: u16, lines: u16, look: Look) -> Buffer {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(columns, lines));
    let Ok(frame) = terminal.draw(|frame| draw(frame, app, look));
    frame.buffer.clone()
}

/// What the main thread waits for.
enum Wake {
    Update(Update),
    Key(KeyEvent),
    Resized,
    Signal,
    /// Standard input has ended.
    End,
}

fn interactive(arguments: &Arguments, address: Address) -> Result<u8, String> {
    let host = |what: &'static str| move |e: std::io::Error| format!("{what}: {e}");
    let signals = Signals::catch().map_err(host("catch signals"))?;
    guarded(true);
    let mut screen = Screen::enter().map_err(host("set up the terminal"))?;
    let (wake, wakes) = mpsc::channel();
    let (ask, asked) = mpsc::channel();
    let start = |name: &str, body: Box<dyn FnOnce() + Send>| {
        thread::Builder::new().name(name.into()).spawn(body).map(drop).map_err(host("start a thread"))
    };
    let to = wake.clone();
    on_signal(signals, move || to.send(Wake::Signal).is_ok()).map_err(host("start a thread"))?;
    let to = wake.clone();
    start("keys", Box::new(move || read_keys(&to)))?;
    let (to, at) = (wake.clone(), address.clone());
    let interval = arguments.interval;
    start("events", Box::new(move || watch(&at, interval, &to)))?;
    start("source", Box::new(move || serve(&address, interval, &asked, &wake)))?;

    let begin = Instant::now();
    let mut app = App::new(&arguments.socket, interval);
    let status = loop {
        let mut next = wakes.recv().ok();
        let mut changed = false;
        // Everything that has come is taken in before a frame is drawn, so that a slow terminal lags behind by one frame.
        let end = loop {
            let action = match next.take() {
                None | Some(Wake::End) => break Some(HOST_FAILURE),
                Some(Wake::Signal) => break Some(SIGNALLED),
                Some(Wake::Resized) => None,
                Some(Wake::Key(key)) => {
                    changed = true;
                    app.key(key)
                }
                Some(Wake::Update(update)) => {
                    changed |= !matches!(update, Update::State(_)) || app.state.is_none();
                    app.update(update, begin.elapsed())
                }
            };
            match action {
                Some(Action::Quit) => break Some(0),
                // Without a source there is no screen either.
                Some(action) => drop(ask.send(action)),
                None => {}
            }
            match wakes.try_recv() {
                Ok(wake) => next = Some(wake),
                Err(_) => break None,
            }
        };
        if let Some(status) = end {
            break status;
        }
        screen.show(&app, changed).map_err(host("write to the terminal"))?;
    };
    drop(screen);
    Ok(status)
}

fn read_keys(to: &Sender<Wake>) {
    loop {
        let wake = match event::read() {
            Ok(Input::Key(key)) if key.kind != KeyEventKind::Release => Wake::Key(key),
            Ok(Input::Resize(..)) => Wake::Resized,
            Ok(_) => continue,
            Err(_) => Wake::End,
        };
        let end = matches!(wake, Wake::End);
        if to.send(wake).is_err() || end {
            return;
        }
    }
}

/// Tells events, over connection after connection.
fn watch(address: &Address, interval: Duration, to: &Sender<Wake>) {
    let mut alive = true;
    while alive {
        // Why there is no connection, the other one tells.
        let _ = address.watch(&mut |kind| {
            alive = to.send(Wake::Update(Update::Event(kind))).is_ok();
            alive
        });
        thread::sleep(interval);
    }
}

/// Tells the state again and again, and does what it is asked, over connection after connection.
fn serve(address: &Address, interval: Duration, asked: &Receiver<Action>, to: &Sender<Wake>) {
    let tell = |update| to.send(Wake::Update(update)).map_err(|_| None);
    loop {
        let ended = match address.open() {
            Ok(mut source) => serve_by(&mut *source, interval, asked, &tell),
            Err(why) => Err(Some(why)),
        };
        let Err(Some(why)) = ended else { return };
        if tell(Update::Lost(why)).is_err() {
            return;
        }
        thread::sleep(interval);
        // What was asked of the old connection was about another state of things.
        for action in asked.try_iter() {
            if let Action::Execute(operation) = action {
                let why = "not done: there was no connection".to_owned();
                if tell(Update::Executed(operation, Err(why))).is_err() {
                    return;
                }
            }
        }
    }
}

/// Serves until the connection is gone, and then says why, or the screen is.
fn serve_by(
    source: &mut dyn Source,
    interval: Duration,
    asked: &Receiver<Action>,
    tell: &dyn Fn(Update) -> Result<(), Option<String>>,
) -> Result<(), Option<String>> {
    loop {
        tell(Update::State(Box::new(source.state()?)))?;
        let first = match asked.recv_timeout(interval) {
            Ok(Action::Refresh) => {
                // Events come in swarms.
                thread::sleep(SWARM);
                None
            }
            Ok(action) => Some(action),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        for action in first.into_iter().chain(asked.try_iter()) {
            match action {
                Action::Plan(operation) => {
                    let plan = Box::new(source.plan(&operation)?);
                    tell(Update::Plan(operation, plan))?;
                }
                Action::Execute(operation) => {
                    let result = source.execute(&operation)?;
                    tell(Update::Executed(operation, result))?;
                }
                Action::Refresh | Action::Quit => {}
            }
        }
    }
}
