# `pyfi why` tells by what the dispatcher goes: what waits for what, and what would start it.
broker with c1

at 0.010  c1: Submit k1 tasks=3 at_once=1
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..2
  to c1   Accepted k1 batch 0 job 1
# Nobody is there.
at 0.020  people: why 1
  shown   1.0 PENDING NoNodes
  shown     no agent has joined
  shown     It would start if a node joined: `pyfi up` starts one here, `pyfi up --slurm` asks for an allocation.
# One node with a single rank: the first task runs there, and its job may have no other.
at 0.030  n1: Hello ranks=1
  at once n1: Welcome 1
at 0.040  n1: Capacity tasks=1 ranks=1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
at 0.050  n1: Beat runs=g1:1.0
  at once n1: Beat
at 0.060  people: why 1.0
  shown   1.0 RUNNING None
  shown     it runs on n1
at 0.070  people: why 1.1
  shown   1.1 PENDING JobArrayTaskLimit
  shown     its job has 1 task running, and at most 1 may
  shown     The next one starts when one of these ends.
# Others wait for the rank.
at 0.080  c1: Submit k2 tasks=5
  record  JobOpened 2 k2 of ada
  record  BatchAdmitted 2.0..4
  to c1   Accepted k2 batch 0 job 2
at 0.090  people: why 2.3
  shown   2.3 PENDING Resources
  shown     1 of 1 rank have work
  shown     up to 3 go first: 3 of sample.work
  shown     It would start now with 4 more idle ranks: `pyfi up --slurm` asks for an allocation.
# A higher priority goes first.
at 0.100  c1: Submit k3 tasks=2 priority=5
  record  JobOpened 3 k3 of ada
  record  BatchAdmitted 3.0..1
  to c1   Accepted k3 batch 0 job 3
at 0.110  people: why 2.3
  shown   2.3 PENDING Priority
  shown     1 of 1 rank have work
  shown     up to 5 go first: 2 of sample.work with priority 5, 3 of sample.work
  shown     It would start now with 6 more idle ranks: `pyfi up --slurm` asks for an allocation.
  shown     With a priority above 5 it would be next: `--priority 6`.
at 0.120  people: why 3.1
  shown   3.1 PENDING Resources
  shown     1 of 1 rank have work
  shown     up to 1 go first: 1 of sample.work
  shown     It would start now with 2 more idle ranks: `pyfi up --slurm` asks for an allocation.
at 0.130  people: why n1
  shown   n1
  shown     1 of 1 rank have work
# One that takes results of others.
at 0.140  c1: Submit k4 needs=0:1.1+2.0+2.1+2.2+2.3
  record  JobOpened 4 k4 of ada
  record  BatchAdmitted 4.0
  to c1   Accepted k4 batch 0 job 4
at 0.150  people: why 4.0
  shown   4.0 PENDING Dependency
  shown     it takes the results of 1.1 (PENDING), 2.0 (PENDING), 2.1 (PENDING), 2 more
  shown     `pyfi why 1.1` tells why that one has not ended.
# When a task has ended it is known how long they take: here nothing at all.
at 0.160  n1: Finished g1 1.0 NONE
  record  OutcomeSettled 1.0 COMPLETED attempt 1 n1 rank 0
  to c1   Resolved 1.0 COMPLETED
  to n1   Kept g1 1.0
  to n1   Grant g2 3.0 attempt 1
at 0.170  people: why 1.1
  shown   1.1 PENDING Priority in 0.00 s
  shown     1 of 1 rank have work
  shown     up to 6 go first: 1 of sample.work with priority 5, 5 of sample.work
  shown     It would start now with 7 more idle ranks: `pyfi up --slurm` asks for an allocation.
  shown     With a priority above 5 it would be next: `--priority 6`.
at 0.180  people: why 3.1
  shown   3.1 PENDING Resources in 0.00 s
  shown     1 of 1 rank have work
  shown     It would start now with 1 more idle rank: `pyfi up --slurm` asks for an allocation.
at 0.190  people: why 1.0
  shown   there is no unfinished task 1.0
# In quarantine nothing starts.
at 0.200  c1: Ask node_quarantine name=n1 reason=noise seconds=60
  at once c1: Answer ok {'name': 'n1', 'reason': 'noise', 'until': 60.2}
  to n1   Recall 1
at 0.210  people: why 2
  shown   2.0 PENDING NodesQuarantined
  shown     n1 is quarantined for 60 s more: noise
  shown     It would start now after `pyfi node release n1`.
at 0.220  people: why n1
  shown   n1
  shown     1 of 1 rank have work
  shown     n1 is quarantined for 60 s more: noise
  shown     It would take tasks again after `pyfi node release n1`.
# It ends by hand, as it says.
at 0.230  c1: Ask node_release name=n1
  at once c1: Answer ok {'name': 'n1', 'lifted': ['node']}
at 0.240  people: why 2
  shown   2.0 PENDING Priority in 0.00 s
  shown     1 of 1 rank have work
  shown     up to 1 go first: 1 of sample.work with priority 5
  shown     It would start now with 2 more idle ranks: `pyfi up --slurm` asks for an allocation.
  shown     With a priority above 5 it would be next: `--priority 6`.
at 0.250  ledger: down gone
at 0.260  people: why 2
  shown   2.0 PENDING LedgerDown
  shown     the ledger is away: gone
  shown     It would go on if Postgres answered again.
at 0.270  people: why 77
  shown   there is no unfinished job 77
at 0.280  people: why n9
  shown   there is no node or allocation n9
