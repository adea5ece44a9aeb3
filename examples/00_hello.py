from pyfi_hpc import Executor, functions, funnel

with Executor() as executor:
    future = executor.submit("sample.square", 7)
    print(future.id, future.result())
    again = executor.submit("sample.square", future)
    print(again.result())
    print(sum(executor.map("sample.square", range(10_000))))

square, total = functions("sample.square", "sample.total")
flow = funnel([square(n) for n in range(100)], total())
print(flow.get())
