//! What the channel subsystem has to tell: channel-report words and event information.

use std::collections::VecDeque;

use crate::spec::ChannelReportWord;

/// How many channel-report words wait for a guest that does not take them.
pub(crate) const REPORTS_MAX: usize = 64;

/// Guest-visible state: pending reports and events.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    words: VecDeque<ChannelReportWord>,
    ap_changed: bool,
}

impl Reports {
    /// Queues a report, or marks the last one when there is no room. True when a machine check has to
    /// announce it: whoever was told of earlier reports takes them all.
    pub(crate) fn push(&mut self, word: ChannelReportWord) -> bool {
        if self.words.len() == REPORTS_MAX {
            if let Some(last) = self.words.back_mut() {
                last.0 |= ChannelReportWord::OVERFLOW;
            }
            return false;
        }
        self.words.push_back(word);
        self.words.len() == 1
    }

    /// The report that STORE CHANNEL REPORT WORD stores next.
    pub(crate) fn peek(&self) -> Option<ChannelReportWord> {
        self.words.front().copied()
    }

    /// Takes the report that [`peek`](Self::peek) showed, once it has been stored.
    pub(crate) fn commit(&mut self) {
        self.words.pop_front();
    }

    /// Makes the event pending that the AP configuration has changed. A second change before the guest
    /// has read the first event adds nothing, as the event says only that there was a change.
    pub(crate) fn ap_changed(&mut self) -> bool {
        !std::mem::replace(&mut self.ap_changed, true) && self.push(ChannelReportWord::EVENT)
    }

    /// Whether event information is pending.
    pub(crate) fn event_pending(&self) -> bool {
        self.ap_changed
    }

    /// Takes the event, once it has been stored.
    pub(crate) fn commit_event(&mut self) {
        self.ap_changed = false;
    }
}
