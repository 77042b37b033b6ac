//! What an API object is: schema, codecs, quantities, selectors, patches, field ownership, defaulting, generic validation.
