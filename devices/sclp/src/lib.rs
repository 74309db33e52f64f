//! SCLP: read information, event facility, consoles.
