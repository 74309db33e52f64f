//! CPU models: data that say which facilities are installed and what STIDP and STSI show.

use zarch::FacilityList;

/// A CPU model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuModel {
    /// The name for `--cpu-model`.
    pub name: &'static str,
    /// Machine type, as STORE CPU ID and STSI show it (for example 0x3906).
    pub machine_type: u16,
    /// The facilities installed.
    pub facilities: FacilityList,
}

/// The facilities that each generation adds and the engine executes. A generation has those of all before it.
/// Bit numbers as in *Facility Indications*.
const GENERATIONS: &[(&str, u16, &[u16])] = &[
    (
        "z10",
        0x2097,
        &[
            0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 13, 14, 16, 18, 19, 21, 22, 24, 25, 26, 27, 28, 30, 31, 32, 33,
            34, 35, 40, 41,
        ],
    ),
    ("z196", 0x2817, &[37, 45, 66]),
    ("zec12", 0x2827, &[49, 51, 52, 75, 78]),
    ("z13", 0x2964, &[53]),
    ("z14", 0x3906, &[58, 130, 131, 138, 144]),
    ("z15", 0x8561, &[61]),
];

impl CpuModel {
    /// The names that [`named`](Self::named) knows.
    pub fn names() -> Vec<&'static str> {
        GENERATIONS.iter().map(|g| g.0).chain(["max"]).collect()
    }

    /// The model of that name: a machine generation, or `max` for all that the engine executes.
    pub fn named(name: &str) -> Option<Self> {
        let last = match name {
            "max" => GENERATIONS.len() - 1,
            _ => GENERATIONS.iter().position(|g| g.0 == name)?,
        };
        let mut facilities = FacilityList::default();
        for (_, _, bits) in &GENERATIONS[..=last] {
            bits.iter().for_each(|bit| facilities.set(*bit, true));
        }
        // A CPU of this engine is always in the z/Architecture mode; without this bit a guest would
        // be told it can leave it.
        facilities.set(138, true);
        let name = if name == "max" { "max" } else { GENERATIONS[last].0 };
        Some(Self { name, machine_type: GENERATIONS[last].1, facilities })
    }

    /// The model with the AP facilities on or off: QCI (12), the T bit of TAPQ (15), interruptions (65).
    pub fn with_ap(mut self, ap: bool) -> Self {
        for bit in [12, 15, 65] {
            self.facilities.set(bit, ap);
        }
        self
    }

    /// Whether AP instructions are installed.
    pub fn has_ap(&self) -> bool {
        self.facilities.bit(12)
    }
}
