//! The API as every other part sees it: typed client, shared informers, work queue, leader lease.
