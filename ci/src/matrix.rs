//! A table of verdicts, program by place: as text, as JUnit's XML, as a picture.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::report::{Report, Verdict};

/// One verdict.
#[derive(Debug)]
pub struct Cell {
    /// How it ended.
    pub verdict: Verdict,
    /// A few words; for a failure what is wrong.
    pub details: String,
    /// Wall-clock time.
    pub elapsed: Duration,
    /// What was printed.
    pub output: String,
}

impl Cell {
    /// What could not be tried.
    pub fn skipped(why: &str) -> Self {
        Self {
            verdict: Verdict::Skipped,
            details: why.into(),
            elapsed: Duration::ZERO,
            output: String::new(),
        }
    }

    fn word(&self) -> &'static str {
        match self.verdict {
            Verdict::Passed => "ok",
            Verdict::Failed => "FAIL",
            Verdict::Skipped => "skip",
        }
    }

    fn first_line(&self) -> &str {
        self.details.lines().next().unwrap_or_default()
    }
}

/// The table.
#[derive(Debug)]
pub struct Matrix {
    places: Vec<String>,
    rows: Vec<(String, Vec<Cell>)>,
}

impl Matrix {
    /// A table with these columns.
    pub fn new(places: &[&str]) -> Self {
        Self { places: places.iter().map(|&place| place.into()).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, name: &str, cells: Vec<Cell>) {
        assert_eq!(cells.len(), self.places.len(), "a cell for each place");
        self.rows.push((name.to_owned(), cells));
    }

    /// Counts every cell.
    pub fn count(&self, report: &mut Report) {
        for (name, cells) in &self.rows {
            for (place, cell) in self.places.iter().zip(cells) {
                report.check(cell.verdict, name, &format!("{place}: {}", cell.details));
            }
        }
    }

    /// Writes `matrix.xml` and `matrix.svg`.
    pub fn write(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        for (name, text) in [("matrix.xml", self.junit()), ("matrix.svg", self.svg())] {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }

    /// A test suite for each place, a test case for each program.
    fn junit(&self) -> String {
        let mut suites = String::new();
        for (n, place) in self.places.iter().enumerate() {
            let (mut cases, mut failed, mut skipped, mut seconds) = (String::new(), 0, 0, 0.0);
            for (name, cells) in &self.rows {
                let cell = &cells[n];
                let time = cell.elapsed.as_secs_f64();
                seconds += time;
                let details = escape(&cell.details);
                let inner = match cell.verdict {
                    Verdict::Passed => String::new(),
                    Verdict::Failed => {
                        failed += 1;
                        format!("<failure message=\"{}\">{details}</failure>", escape(cell.first_line()))
                    }
                    Verdict::Skipped => {
                        skipped += 1;
                        format!("<skipped message=\"{details}\"/>")
                    }
                };
                let _ = writeln!(
                    cases,
                    "    <testcase name=\"{}\" classname=\"{}\" time=\"{time:.3}\">{inner}<system-out>{}</system-out></testcase>",
                    escape(name),
                    escape(place),
                    escape(&cell.output)
                );
            }
            let _ = writeln!(
                suites,
                "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{failed}\" skipped=\"{skipped}\" time=\"{seconds:.3}\">\n{cases}  </testsuite>",
                escape(place),
                self.rows.len()
            );
        }
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"guest-tests\">\n{suites}</testsuites>\n"
        )
    }

    fn svg(&self) -> String {
        const LEFT: usize = 170;
        const CELL: usize = 210;
        const LINE: usize = 28;
        let (width, height) = (LEFT + CELL * self.places.len() + 10, LINE * (self.rows.len() + 1) + 10);
        let mut body = String::new();
        let mut text = |x: usize, y: usize, colour: &str, words: &str| {
            let _ = writeln!(body, "<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{}</text>", escape(words));
        };
        for (n, place) in self.places.iter().enumerate() {
            text(LEFT + CELL * n + 10, 24, "#222", place);
        }
        for (r, (name, _)) in self.rows.iter().enumerate() {
            text(10, LINE * (r + 1) + 24, "#222", name);
        }
        for (r, (_, cells)) in self.rows.iter().enumerate() {
            for (n, cell) in cells.iter().enumerate() {
                let colour = match cell.verdict {
                    Verdict::Passed => "#2e7d32",
                    Verdict::Failed => "#c62828",
                    Verdict::Skipped => "#9e9e9e",
                };
                let (x, y) = (LEFT + CELL * n, LINE * (r + 1) + 6);
                let _ = writeln!(
                    body,
                    "<g><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" rx=\"3\" fill=\"{colour}\"/>\
                     <text x=\"{}\" y=\"{}\" fill=\"#fff\">{}</text></g>",
                    escape(&cell.details),
                    CELL - 6,
                    LINE - 4,
                    x + 10,
                    y + 17,
                    escape(&shorten(&format!("{} {}", cell.word(), cell.first_line()), 30))
                );
            }
        }
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{body}</svg>\n"
        )
    }
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = |cells: &[Cell]| {
            let word = |cell: &Cell| shorten(&format!("{} {}", cell.word(), cell.first_line()), 36);
            cells.iter().map(word).collect::<Vec<_>>()
        };
        let lines = std::iter::once((String::new(), self.places.clone()))
            .chain(self.rows.iter().map(|(name, cells)| (name.clone(), words(cells))));
        for (name, cells) in lines {
            let mut line = format!("   {name:18}");
            cells.iter().for_each(|cell| line += &format!("  {cell:36}"));
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// Text for XML, without the control characters that it cannot hold.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix() -> Matrix {
        let mut matrix = Matrix::new(&["here", "there"]);
        let cell = |verdict, details: &str| Cell {
            verdict,
            details: details.into(),
            elapsed: Duration::from_millis(1500),
            output: "a < b\u{1b}".into(),
        };
        matrix.row("one", vec![cell(Verdict::Passed, "3 ok"), Cell::skipped("no QEMU")]);
        matrix.row("two", vec![cell(Verdict::Failed, "got \"1\"\nwant 2"), cell(Verdict::Passed, "ok")]);
        matrix
    }

    #[test]
    fn every_cell_is_counted() {
        let mut report = Report::default();
        matrix().count(&mut report);
        assert_eq!(report.total(), "2 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn junit() {
        let text = matrix().junit();
        for part in [
            "<testsuite name=\"here\" tests=\"2\" failures=\"1\" skipped=\"0\" time=\"3.000\">",
            "<testsuite name=\"there\" tests=\"2\" failures=\"0\" skipped=\"1\" time=\"1.500\">",
            "<failure message=\"got &quot;1&quot;\">got &quot;1&quot;\nwant 2</failure>",
            "<skipped message=\"no QEMU\"/>",
            "a &lt; b\u{fffd}",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn text_and_picture_name_rows_and_places() {
        for text in [matrix().to_string(), matrix().svg()] {
            for part in ["here", "there", "one", "two", "ok 3 ok", "skip no QEMU", "FAIL got"] {
                assert!(text.contains(part), "{part} is not in\n{text}");
            }
        }
        assert_eq!(shorten("abcdef", 4), "abc…");
    }
}
