# The server: docker build -t bowerbird . && docker compose up (see docs/serve.md)
FROM python:3.12-slim

# torch for CPUs; for NVIDIA GPUs: --build-arg TORCH=https://download.pytorch.org/whl/cu126
ARG TORCH=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir torch --index-url $TORCH
RUN pip install --no-cache-dir '.[serve,milvus]'
RUN useradd --uid 10001 --no-create-home --home-dir /data bowerbird && mkdir /data /kb && chown bowerbird /data

USER bowerbird
WORKDIR /data
ENV BOWERBIRD_CACHE=/data/cache HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/health', timeout=4)"]
ENTRYPOINT ["bowerbird", "serve", "--host", "0.0.0.0", "--port", "7860", "--data", "/data/server"]
CMD []
