//! What each kind adds to the one path: defaults, preparation, validation, selectable fields and table cells.
