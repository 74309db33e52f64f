//! A frame as a picture, for documents: the cells of the terminal as an SVG.

use std::fmt::Write;

use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

/// Size of a cell, and of its letters, in pixels.
const WIDTH: f32 = 8.4;
const HEIGHT: f32 = 17.0;
const LETTER: f32 = 14.0;
const MARGIN: f32 = 8.0;
const FOREGROUND: &str = "#d0d0d0";
const BACKGROUND: &str = "#1c1c1c";

/// The picture of a frame.
pub fn svg(buffer: &Buffer) -> String {
    let area = buffer.area;
    let (width, height) =
        (f32::from(area.width) * WIDTH + 2.0 * MARGIN, f32::from(area.height) * HEIGHT + 2.0 * MARGIN);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.1} {height:.1}\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{BACKGROUND}\"/>\n\
         <g font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"{LETTER}\" fill=\"{FOREGROUND}\">\n"
    );
    for y in 0..area.height {
        let mut x = 0;
        while x < area.width {
            let first = &buffer[(area.x + x, area.y + y)];
            let mut text = first.symbol().to_owned();
            let mut end = x + 1;
            while end < area.width && alike(first, &buffer[(area.x + end, area.y + y)]) {
                text += buffer[(area.x + end, area.y + y)].symbol();
                end += 1;
            }
            run(&mut out, first, &text, [x, y, end - x]);
            x = end;
        }
    }
    out + "</g>\n</svg>\n"
}

fn alike(one: &Cell, other: &Cell) -> bool {
    (one.fg, one.bg, one.modifier) == (other.fg, other.bg, other.modifier)
}

/// Cells of one style beside each other.
fn run(out: &mut String, style: &Cell, text: &str, [x, y, count]: [u16; 3]) {
    let (mut front, mut back) = (colour(style.fg), colour(style.bg));
    if style.modifier.contains(Modifier::REVERSED) {
        (front, back) = (back.or(Some(BACKGROUND)), front.or(Some(FOREGROUND)));
    }
    let (left, top) = (f32::from(x) * WIDTH + MARGIN, f32::from(y) * HEIGHT + MARGIN);
    let width = f32::from(count) * WIDTH;
    // A string takes everything that is written to it.
    if let Some(back) = back {
        let _ = writeln!(
            out,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{HEIGHT}\" fill=\"{back}\"/>"
        );
    }
    if text.trim().is_empty() {
        return;
    }
    let _ = write!(
        out,
        "<text x=\"{left:.1}\" y=\"{:.1}\" textLength=\"{width:.1}\" xml:space=\"preserve\"",
        top + 13.0
    );
    if let Some(front) = front {
        let _ = write!(out, " fill=\"{front}\"");
    }
    if style.modifier.contains(Modifier::BOLD) {
        *out += " font-weight=\"bold\"";
    }
    if style.modifier.contains(Modifier::DIM) {
        *out += " opacity=\"0.6\"";
    }
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(out, ">{escaped}</text>");
}

/// The colours that a terminal has by itself; others are not used.
fn colour(colour: Color) -> Option<&'static str> {
    Some(match colour {
        Color::Black => "#000000",
        Color::Red => "#ff6b68",
        Color::Green => "#5fd75f",
        Color::Yellow => "#e5c07b",
        Color::Blue => "#61afef",
        Color::Magenta => "#d787d7",
        Color::Cyan => "#56c8d8",
        Color::Gray => "#b0b0b0",
        Color::DarkGray => "#808080",
        _ => return None,
    })
}
