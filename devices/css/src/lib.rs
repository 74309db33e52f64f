//! Channel subsystem: CHSC, channel reports and the subchannel instructions.
