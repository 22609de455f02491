"""A worker: takes requests from nginx, asks the ledger, talks to the model servers. It holds no state that a crash could lose."""
