//! Types that controller, node and command line share.
