# Code that cannot run on a node fails the tasks that wait for it; the next grant looks again.
agent n1 with 1 ranks unchecked

at 0.010  broker: Mount
  do        CheckCode 1
at 0.020  broker: Grant g1 1.0
at 0.030  node: checked problem="no python"
  to broker Finished g1 1.0 ENVIRONMENT
at 0.040  broker: Grant g2 1.1
  do        CheckCode 1
at 0.050  node: checked
  to r0     Bundle b1 1.1 attempt 1
