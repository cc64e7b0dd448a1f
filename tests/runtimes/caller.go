// A caller in Go: as caller.py, with net/http.
package main

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"
)

var kept = &http.Client{Transport: &http.Transport{}}

func name(err error) string {
	var dns *net.DNSError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &dns):
		return "dns"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF):
		return "reset"
	case os.IsTimeout(err):
		return "timeout"
	}
	return err.Error()
}

func call(host, port string, timeout time.Duration, keep bool) (int, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: timeout}
	if keep {
		client = &http.Client{Transport: kept.Transport, Timeout: timeout}
	}
	answer, err := client.Get("http://" + net.JoinHostPort(host, port) + "/who")
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, err
}

func main() {
	http.HandleFunc("/call", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		ms, _ := strconv.Atoi(q.Get("timeout"))
		host := q.Get("host")
		if host == "" {
			host = "127.0.0.1"
		}
		over, lags := make(chan bool), make(chan float64)
		go func() {
			last, most := time.Now(), 0.0
			for {
				select {
				case <-over:
					lags <- most
					return
				case <-time.After(10 * time.Millisecond):
				}
				now := time.Now()
				if late := now.Sub(last).Seconds()*1000 - 10; late > most {
					most = late
				}
				last = now
			}
		}()
		begin := time.Now()
		status, err := call(host, q.Get("port"), time.Duration(ms)*time.Millisecond, q.Get("keep") != "")
		took := time.Since(begin).Seconds() * 1000
		over <- true
		_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "error": name(err), "ms": took, "lag": <-lags})
	})
	if err := http.ListenAndServe("127.0.0.1:"+os.Args[1], nil); err != nil {
		panic(err)
	}
}
