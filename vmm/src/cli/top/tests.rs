//! Keys and updates in, frames out; and what a guest tells, as a host's state.

use std::time::Duration;

use ap::host::{
    ApHost, Attribute, Condition, Driver, EventKind, MatrixChange, Operation, QueueStatus, Snapshot,
};
use crycb::Apqn;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::json;
use uuid::Uuid;

use super::draw::Look;
use super::model::{Action, App, Mode, Update};
use super::{frame, keys, screen, source, svg};

const ONE: Uuid = Uuid::from_u128(0x62177883_f1bb_47f0_914d_32a22e3a8804);
const PLAIN: Look = Look { colour: false, ascii: false };
const SECOND: Duration = Duration::from_secs(1);

/// The built-in host with a guest at its first device, after `requests` on each of its queues, a millisecond each.
fn state(requests: u64) -> Snapshot {
    let mut state = ApHost::builtin().snapshot();
    let matrix = state.mdevs[0].matrix;
    state.mdevs[0].attached = true;
    for queue in state.queues.iter_mut().filter(|queue| matrix.test(queue.queue)) {
        queue.status = Some(QueueStatus::InUse);
        (queue.requests, queue.pending) = (Some(requests + 2), Some(2));
        (queue.answered, queue.answer_time) = (Some(requests), Some(requests * 1_000_000));
    }
    state
}

fn tell(app: &mut App, snapshot: Snapshot, now: Duration) -> Option<Action> {
    app.update(Update::State(Box::new(snapshot)), now)
}

/// An app that has seen two states and an event.
fn app() -> App {
    let mut app = App::new("unix:/run/ap", SECOND);
    tell(&mut app, state(0), SECOND);
    let change = MatrixChange { plugged: vec![Apqn(0x0604)], ..MatrixChange::default() };
    let event = EventKind::GuestMatrix { mdev: ONE, change };
    assert_eq!(app.update(Update::Event(event), SECOND), Some(Action::Refresh));
    // Too near to say anything.
    tell(&mut app, state(1), SECOND + SECOND / 10);
    tell(&mut app, state(1234), 2 * SECOND);
    app
}

/// Presses keys, and answers plans as a source does; the other actions.
fn press(app: &mut App, text: &str) -> Vec<Action> {
    let mut actions = Vec::new();
    for code in keys(text).unwrap_or_else(|e| panic!("{e}")).0 {
        match app.key(KeyEvent::new(code, KeyModifiers::NONE)) {
            Some(Action::Plan(operation)) => {
                let plan = app.state.as_ref().unwrap().plan(&operation);
                assert_eq!(app.update(Update::Plan(operation, Box::new(plan)), app.now), None);
            }
            action => actions.extend(action),
        }
    }
    actions
}

fn shown(app: &App, columns: u16, lines: u16) -> String {
    screen::text(&frame(app, columns, lines, PLAIN), "\n")
}

#[test]
fn frames() {
    for (columns, lines) in [(80, 24), (132, 40)] {
        for (name, keys) in [
            ("list", ""),
            ("moved", "Right Down Tab"),
            ("confirm", "A"),
            ("refused", "Down Down Right Tab a"),
            ("remedy", "Down Down Right Tab a 1"),
            ("help", "?"),
        ] {
            let mut app = app();
            press(&mut app, keys);
            insta::assert_snapshot!(format!("{name}-{columns}x{lines}"), shown(&app, columns, lines));
        }
    }
    insta::assert_snapshot!("small-43x24", shown(&app(), 43, 24).trim_end());
    insta::assert_snapshot!("ascii-80x24", {
        let look = Look { colour: false, ascii: true };
        let mut app = app();
        press(&mut app, "A");
        let text = screen::text(&frame(&app, 80, 24, look), "\n");
        assert!(text.is_ascii());
        text
    });
}

/// Every size gives a frame, whatever the host has.
#[test]
fn any_size() {
    let mut large = state(7);
    large.configuration.apm = (0..=255).collect();
    large.configuration.aqm = (0..=255).collect();
    for snapshot in [state(7), large] {
        let mut app = app();
        tell(&mut app, snapshot, 3 * SECOND);
        for words in ["", "End PageDown", "s", "A", "n ?"] {
            let words = words.replace("End PageDown", "l l l j j j");
            press(&mut app, &words);
            for (columns, lines) in [(1, 1), (44, 12), (45, 13), (80, 24), (200, 12), (44, 100)] {
                assert_eq!(shown(&app, columns, lines).lines().count(), usize::from(lines));
            }
        }
    }
}

#[test]
fn what_keys_do() {
    let write = |attribute| Operation::Write { mdev: ONE, attribute };
    let queue = Apqn(0x0647);
    for (keys, want) in [
        ("Down Right a", write(Attribute::AssignAdapter("0x6".into()))),
        ("Down Right A", write(Attribute::UnassignAdapter("0x6".into()))),
        ("Down Right d", write(Attribute::AssignDomain("0x47".into()))),
        ("Down Right D", write(Attribute::UnassignDomain("0x47".into()))),
        ("Down Right c", write(Attribute::AssignControlDomain("0x47".into()))),
        ("Down Right C", write(Attribute::UnassignControlDomain("0x47".into()))),
        ("Down Right b", Operation::Bind { queue, driver: Driver::VfioAp }),
        ("Down Right B", Operation::Unbind { queue }),
        ("j l j k B", Operation::Unbind { queue }),
        ("Left Up Left Down Right B", Operation::Unbind { queue }),
    ] {
        let mut app = app();
        assert_eq!(press(&mut app, keys), []);
        let Mode::Confirm { operation, plan } = &app.mode else { panic!("{keys}: {:?}", app.mode) };
        assert_eq!(*operation, want, "{keys}");
        let refused = plan.as_ref().unwrap().refusal.is_some();
        let want = if refused { vec![] } else { vec![Action::Execute(want)] };
        assert_eq!(press(&mut app, "y"), want, "{keys}");
    }
    let mut app = app();
    assert_eq!(press(&mut app, "a n"), []);
    assert!(matches!(app.mode, Mode::List), "n leaves it");
    assert_eq!(press(&mut app, "q"), [Action::Quit]);
    let control = |c| KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL);
    assert_eq!(app.key(control('c')), Some(Action::Quit));
    assert_eq!(app.key(control('d')), None, "no assignment");
}

#[test]
fn nothing_is_done_unseen() {
    let mut app = app();
    let key = |app: &mut App, c| app.key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE));
    let Some(Action::Plan(operation)) = key(&mut app, 'A') else { panic!("no plan is asked for") };
    assert_eq!(key(&mut app, 'y'), None, "there is no plan yet");
    assert!(shown(&app, 80, 24).contains("One moment"));
    let other = app.state.as_ref().unwrap().plan(&Operation::Scan);
    app.update(Update::Plan(Operation::Scan, Box::new(other)), SECOND);
    assert_eq!(key(&mut app, 'y'), None, "that was of something else");
    let event = EventKind::Adapter { adapter: "05".into(), condition: Condition::Offline };
    let again = app.update(Update::Event(event), SECOND);
    assert_eq!(again, Some(Action::Plan(operation.clone())), "things have changed since");
    app.update(Update::Lost("gone".into()), SECOND);
    assert!(shown(&app, 80, 24).contains("trying again: gone"));
    assert_eq!(tell(&mut app, state(0), 3 * SECOND), Some(Action::Plan(operation)));
    assert!(!shown(&app, 80, 24).contains("trying again"));
}

#[test]
fn figures() {
    let app = app();
    let figures = &app.figures[&Apqn(0x0504)];
    assert_eq!(figures.rate, Some(1234.0));
    assert_eq!(figures.latency, Some(Duration::from_millis(1)));
    assert_eq!(figures.trend, [Some(Duration::from_millis(1))]);
    let mut app = app;
    tell(&mut app, state(1234), 3 * SECOND);
    assert_eq!((app.figures[&Apqn(0x0504)].rate, app.figures[&Apqn(0x0504)].latency), (Some(0.0), None));
    // A new life of the queue, then other figures of it.
    tell(&mut app, state(3), 4 * SECOND);
    assert_eq!(app.figures[&Apqn(0x0504)].rate, None);
    tell(&mut app, state(5), 6 * SECOND);
    assert_eq!(app.figures[&Apqn(0x0504)].rate, Some(1.0));
    for n in 0..100 {
        tell(&mut app, state(10 + n), (7 + n as u32) * SECOND);
    }
    assert_eq!(app.figures[&Apqn(0x0504)].trend.len(), 60);
    let mut gone = state(200);
    gone.queues.clear();
    tell(&mut app, gone, 200 * SECOND);
    assert!(app.figures.is_empty());
}

/// Colours are in the cells only when they are wanted; the picture has every letter.
#[test]
fn pictures() {
    let app = app();
    let colour = frame(&app, 80, 24, Look { colour: true, ascii: false });
    let plain = frame(&app, 80, 24, PLAIN);
    let coloured = |buffer: &ratatui::buffer::Buffer| {
        buffer.content.iter().any(|c| c.fg != ratatui::style::Color::Reset)
    };
    assert!(coloured(&colour) && !coloured(&plain));
    assert_eq!(screen::text(&colour, "\n"), screen::text(&plain, "\n"));
    let picture = svg::svg(&colour);
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
    assert_eq!(picture.matches("<text ").count(), picture.matches("</text>").count());
    assert!(picture.contains(">queue   type  driver    status        req/s pending depth  latency  trend"));
    assert!(picture.contains("&gt; 62177883-f1bb-47f0-914d-32a22e3a8804 +"), "{picture}");
}

#[test]
fn events_of_a_guest() {
    let event = json!({"event": "X_AP_CONFIG_CHANGED", "data": {"mdev": ONE, "plugged": ["0a.0004"], "plugged-count": 1,
        "unplugged": [], "unplugged-count": 0, "control-plugged": ["0047"], "control-unplugged": []}});
    let change = MatrixChange {
        plugged: vec![Apqn(0x0a04)],
        control_plugged: crycb::Mask256::EMPTY.with(0x47),
        ..MatrixChange::default()
    };
    let kind = EventKind::GuestMatrix { mdev: ONE, change };
    assert_eq!(source::event_kind(&event).as_ref(), Some(&kind));
    // The same of the guest's own device is told once, and what happens to others.
    for guest in [true, false] {
        let mut told = json!(ap::host::Event { number: 2, kind: kind.clone() });
        told["plugged-count"] = 1.into();
        let event = json!({"event": "X_AP_HOST", "data": {"event": told, "guest": guest}});
        assert_eq!(source::event_kind(&event), (!guest).then(|| kind.clone()));
    }
    let event = json!({"event": "X_AP_HOST", "data": {"event": {"number": 3, "event": "adapter", "adapter": "05",
        "condition": "offline"}}});
    let offline = EventKind::Adapter { adapter: "05".into(), condition: Condition::Offline };
    assert_eq!(source::event_kind(&event), Some(offline));
    for event in [json!({"event": "STOP"}), json!({}), json!({"event": "X_AP_HOST", "data": 7})] {
        assert_eq!(source::event_kind(&event), None);
    }
}
