# What cannot end in time any more goes back, when it is in line for a rank; and an attempt goes on from a state.
limits lease_s=1000
agent n1 with 1 ranks allocation until 10

at 0.010  broker: Grant g1 1.0
  to r0     Bundle b1 1.0 attempt 1
at 0.020  broker: Grant g2 2.0..1 needs=5
at 0.030  broker: Grant g3 3.0 needs=2 state=half attempt=2
at 6.000  r0: Done b1 1.0 NONE
  to r0     Beat
  to broker Beat
  to r0     Bundle b2 3.0 attempt 2 from half
  to broker Finished g1 1.0 NONE rank 0, g2 2.0..1 RELEASED
  to broker Capacity 50 ranks=1
  do        Sample
at 9.500  r0: Done b2 3.0 NONE
  to r0     Beat
  to broker Beat
  to broker Finished g3 3.0 NONE rank 0
  do        Sample
at 9.600  broker: Grant g4 4.0
  to broker Finished g4 4.0 RELEASED
