# The embedded world in a container; docs/try-it.md says how to build and start it.
FROM python:3.11-slim-bookworm

RUN useradd --create-home --uid 1000 player && mkdir /runbook && chown player /runbook
USER 1000
WORKDIR /runbook
COPY --chown=1000 . .

# The CPU build of torch: it plays the embedded world at full speed, and is several GiB smaller.
RUN python runbook.py setup --torch-lock cpu

EXPOSE 8888
CMD ["python", "runbook.py", "lab", "--ip=0.0.0.0", "--no-browser"]
