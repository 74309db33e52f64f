//! Answers on demand: a queue that behaves as one does only when hardware fails or is overloaded.

use std::num::NonZeroU32;

use crate::status::ResponseCode;

/// What a queue shall do wrong, see [`ApMachine::inject`](crate::ApMachine::inject). A way to try the rules for queues that
/// are stuck: when a reset is tried again, when it is given up, whose guest waits meanwhile, what is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// RAPQ and ZAPQ answer with this code and reset nothing; with 00 they do what they always do.
    ResetAnswers(Answer),
    /// The next reset that begins discards everything as any does, and then stays in progress (02).
    ResetNeverEnds,
    /// AQIC answers with this code and changes nothing; with 00 it does what it always does.
    AqicAnswers(Answer),
}

/// A response code, and how often it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    code: ResponseCode,
    /// `None` for ever.
    left: Option<NonZeroU32>,
}

impl Answer {
    /// The code until the faults are cleared.
    pub const fn always(code: ResponseCode) -> Self {
        Self { code, left: None }
    }

    /// The code this many times.
    pub const fn times(times: NonZeroU32, code: ResponseCode) -> Self {
        Self { code, left: Some(times) }
    }
}

/// The faults of one queue.
#[derive(Default)]
pub(crate) struct Faults {
    reset: Option<Answer>,
    aqic: Option<Answer>,
    pub(crate) reset_never_ends: bool,
}

impl Faults {
    /// Adds a fault; it takes the place of an earlier one of its kind.
    pub(crate) fn add(&mut self, fault: Fault) {
        match fault {
            Fault::ResetAnswers(answer) => self.reset = Some(answer),
            Fault::ResetNeverEnds => self.reset_never_ends = true,
            Fault::AqicAnswers(answer) => self.aqic = Some(answer),
        }
    }

    /// What a reset must answer; counts it.
    pub(crate) fn reset(&mut self) -> Option<ResponseCode> {
        next(&mut self.reset)
    }

    /// What AQIC must answer; counts it.
    pub(crate) fn aqic(&mut self) -> Option<ResponseCode> {
        next(&mut self.aqic)
    }
}

fn next(slot: &mut Option<Answer>) -> Option<ResponseCode> {
    let answer = slot.as_mut()?;
    let code = answer.code;
    if let Some(left) = answer.left {
        *slot = NonZeroU32::new(left.get() - 1).map(|left| Answer { code, left: Some(left) });
    }
    (code != ResponseCode::Normal).then_some(code)
}
