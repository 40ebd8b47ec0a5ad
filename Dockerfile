# A model behind HTTP: what runs it, without what trains; nobody's rights, nothing to write to.
#   docker build -t headstart .
#   docker run -v "$PWD/runs/photos:/model:ro" -p 127.0.0.1:8000:8000 headstart
# docs/examples/compose.yaml runs it read-only and without capabilities; docs/guides/serve.md tells the rest.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN python -m venv /opt/headstart \
    && /opt/headstart/bin/pip install --no-cache-dir --constraint constraints.txt '.[serve]'

FROM python:3.13-slim
COPY --from=build /opt/headstart /opt/headstart
ENV PATH=/opt/headstart/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/live')"]
ENTRYPOINT ["headstart", "serve", "/model", "--host", "0.0.0.0", "--no-cache"]
