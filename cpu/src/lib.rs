//! Software z/Architecture CPU engine.
