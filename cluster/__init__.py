"""Work spread over machines: units, replicas, pools, the result store and its ledger."""
