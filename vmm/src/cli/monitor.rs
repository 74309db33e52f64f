//! `adjunct ctl SOCKET monitor`: a line a command, from a program or from a person; events as they come.

use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};

use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, ExternalPrinter, Helper};
use serde_json::{Map, Value};
use vmm::host::{KeptTerminal, Signals, restore_terminal};

use super::client::{Client, Message, command};
use super::ctl::{Schema, print, text};
use super::terminal::{guarded, on_signal};

const PROMPT: &str = "adjunct> ";

/// Lines from standard input: a command with key=value or JSON, or a word of QEMU's monitor. Ends with standard input, or, at
/// a terminal, with the guest.
pub fn monitor(mut client: Client, json: bool) -> io::Result<()> {
    let (commands, _) = client.execute("query-commands", &Map::new(), drop)?;
    let (schema, _) = client.execute("query-qmp-schema", &Map::new(), drop)?;
    let commands = commands.unwrap_or_default();
    let known = commands.as_array().into_iter().flatten().filter_map(|c| c["name"].as_str().map(Into::into));
    let words = Words { known: known.collect(), schema: Schema::new(schema.unwrap_or_default()) };
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        return with_a_person(client, words, json);
    }
    let mut conversation = Conversation::start(client, json, move |event| print(&event, json), || {})?;
    for line in io::stdin().lock().lines() {
        conversation.line(&line?, &words)?;
    }
    Ok(())
}

/// With a line that is edited, and events above it.
fn with_a_person(client: Client, words: Words, json: bool) -> io::Result<()> {
    guarded(false);
    on_signal(Signals::catch()?, || false)?;
    // What they interrupt in the editor would go on with the terminal that was just given back. SIGINT it has for itself, as
    // Ctrl-c.
    Signals::elsewhere()?;
    let _kept = KeptTerminal::new()?;
    let of = |e: ReadlineError| io::Error::other(e);
    let config = Config::builder().completion_type(CompletionType::List).auto_add_history(true);
    // It would have to be switched off on every way out.
    let config = config.bracketed_paste(false).build();
    let mut editor = Editor::<Words, MemHistory>::with_history(config, MemHistory::new()).map_err(of)?;
    editor.set_helper(Some(words));
    // A terminal that knows no places has none.
    let mut above = editor.create_external_printer().ok();
    let event = move |event| {
        let text = text(&event, json);
        if above.as_mut().is_none_or(|above| above.print(text.clone()).is_err()) {
            print(&event, json);
        }
    };
    let busy = Arc::new(Mutex::new(()));
    let answering = busy.clone();
    // The editor waits for keys and cannot be told; the last reply is printed first.
    let ended = move || {
        let _answered = answering.lock().unwrap_or_else(PoisonError::into_inner);
        restore_terminal();
        eprintln!("\nadjunct: the guest has ended");
        std::process::exit(0);
    };
    let mut conversation = Conversation::start(client, json, event, ended)?;
    loop {
        match editor.readline(PROMPT) {
            Ok(line) => {
                let answering = busy.lock().unwrap_or_else(PoisonError::into_inner);
                let words = editor.helper().expect("it was set");
                if let Err(e) = conversation.line(&line, words) {
                    // This is the end, and the other thread is not to make another of it.
                    std::mem::forget(answering);
                    return Err(e);
                }
            }
            // Ctrl-c leaves the line.
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => return Ok(()),
            Err(e) => return Err(of(e)),
        }
    }
}

type Replies = Receiver<(Result<Value, String>, Value)>;

/// A connection of which a thread reads what comes.
struct Conversation {
    to: UnixStream,
    replies: Replies,
    sent: u64,
    json: bool,
}

impl Conversation {
    /// `event` gets each event, and `ended` is called when the connection has ended.
    fn start(
        mut client: Client,
        json: bool,
        mut event: impl FnMut(Value) + Send + 'static,
        ended: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let to = client.sender()?;
        let (tell, replies) = channel();
        std::thread::Builder::new().name("receive".into()).spawn(move || {
            while let Ok(message) = client.receive(None) {
                match message {
                    Message::Event(value) => event(value),
                    Message::Reply(result, whole) => {
                        if tell.send((result, whole)).is_err() {
                            return;
                        }
                    }
                }
            }
            // Whoever waits for a reply waits no more.
            drop(tell);
            ended();
        })?;
        // Not the numbers that were given before.
        Ok(Self { to, replies, sent: 1 << 32, json })
    }

    /// Does what a line says and prints the answer.
    fn line(&mut self, line: &str, words: &Words) -> io::Result<()> {
        let line = line.trim();
        if line.is_empty() {
            return Ok(());
        }
        let (name, arguments) = match words.command(line) {
            Ok(command) => command,
            Err(problem) => {
                println!("error: {problem}");
                return Ok(());
            }
        };
        self.sent += 1;
        self.to.write_all(command(&name, &arguments, self.sent).as_bytes())?;
        match self.replies.recv() {
            Ok((Ok(value), _)) if !self.json => print(&value, false),
            Ok((Err(description), _)) if !self.json => println!("error: {description}"),
            Ok((_, whole)) => print(&whole, true),
            Err(_) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the guest has ended")),
        }
        Ok(())
    }
}

/// What can be said.
struct Words {
    known: Vec<String>,
    schema: Schema,
}

impl Words {
    /// The command that a line is.
    fn command(&self, line: &str) -> Result<(String, Map<String, Value>), String> {
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        if !self.known.iter().any(|command| command == name) {
            let words = Map::from_iter([("command-line".to_owned(), line.into())]);
            return Ok(("human-monitor-command".into(), words));
        }
        if rest.starts_with('{') {
            return match serde_json::from_str(rest) {
                Ok(Value::Object(arguments)) => Ok((name.into(), arguments)),
                Ok(_) => Err(format!("'{rest}' is no JSON object")),
                Err(e) => Err(format!("'{rest}' is no JSON object: {e}")),
            };
        }
        let mut arguments = Map::new();
        for part in rest.split_whitespace() {
            let (key, text) =
                part.split_once('=').ok_or_else(|| format!("'{part}' is not key=value, nor is it JSON"))?;
            arguments.insert(key.into(), self.schema.value(name, key, text));
        }
        Ok((name.into(), arguments))
    }

    /// Where the word at the end of `line` begins, and what it may become: a command, an argument that is not there yet, or
    /// an argument's value.
    fn completions(&self, line: &str) -> (usize, Vec<String>) {
        let start = line.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        let word = &line[start..];
        let mut parts = line[..start].split_whitespace();
        let Some(name) = parts.next() else {
            return (start, self.known.iter().filter(|known| known.starts_with(word)).cloned().collect());
        };
        if let Some((key, text)) = word.split_once('=') {
            let choices = self.schema.choices(name, key).into_iter();
            let choices = choices.filter(|choice| choice.starts_with(text)).map(str::to_owned);
            return (start + key.len() + 1, choices.collect());
        }
        let given: Vec<_> = parts.filter_map(|part| part.split_once('=')).map(|(key, _)| key).collect();
        let keys = self.schema.keys(name).into_iter();
        let keys = keys.filter(|key| key.starts_with(word) && !given.contains(key));
        (start, keys.map(|key| format!("{key}=")).collect())
    }
}

impl Completer for Words {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, words) = self.completions(&line[..at]);
        let pair = |word: String| {
            // A command or a value is followed by the next word, a key by its value.
            let replacement = if word.ends_with('=') { word.clone() } else { format!("{word} ") };
            Pair { display: word, replacement }
        };
        Ok((start, words.into_iter().map(pair).collect()))
    }
}

impl Hinter for Words {
    type Hint = String;
}

impl Highlighter for Words {}
impl Validator for Words {}
impl Helper for Words {}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_are_completed() {
        let words = Words {
            known: ["query-name", "query-status", "set"].map(Into::into).into(),
            schema: Schema::new(json!([
                {"meta-type": "command", "name": "set", "arg-type": "a"},
                {"meta-type": "object", "name": "a", "members": [
                    {"name": "mode", "type": "E"}, {"name": "more", "type": "bool"}, {"name": "text", "type": "str"}]},
                {"meta-type": "builtin", "name": "str", "json-type": "string"},
                {"meta-type": "builtin", "name": "bool", "json-type": "boolean"},
                {"meta-type": "enum", "name": "E", "values": ["fast", "slow"]},
            ])),
        };
        for (line, start, want) in [
            ("", 0, &["query-name", "query-status", "set"][..]),
            ("query-s", 0, &["query-status"]),
            ("fly", 0, &[]),
            ("set ", 4, &["mode=", "more=", "text="]),
            ("set mo", 4, &["mode=", "more="]),
            ("set mode=fast m", 14, &["more="]),
            ("set mode=", 9, &["fast", "slow"]),
            ("  set  mode=s", 12, &["slow"]),
            ("set more=o", 9, &["on", "off"]),
            ("set text=", 9, &[]),
            ("fly mo", 4, &[]),
        ] {
            assert_eq!(
                words.completions(line),
                (start, want.iter().map(|w| w.to_string()).collect()),
                "{line:?}"
            );
        }
    }
}
